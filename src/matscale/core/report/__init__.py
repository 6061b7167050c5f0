"""Report: all results of runs as one page that needs no network. See docs/report.md."""
