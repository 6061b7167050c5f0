"""Studies: the grid of runs for a scaling law, planned from one file; a sweep resumes runs that were interrupted."""
