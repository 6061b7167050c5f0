"""Run folder on disk: training writes it, all other parts of matscale only read it."""
