"""Report: all results of runs as one page that works without a network. See docs/report.md."""
