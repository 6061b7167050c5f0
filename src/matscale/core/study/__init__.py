"""Studies: the grid of runs that a scaling law needs, planned from one file and done whatever happens meanwhile."""
