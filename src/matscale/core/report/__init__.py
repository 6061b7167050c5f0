"""The report: everything that runs tell, as one page that needs no network. See docs/report.md."""
