"""Run folder on disk. Training writes it; all other parts of matscale only read it."""
