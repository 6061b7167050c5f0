"""Run folder on disk: training writes it, all other parts only read it."""
