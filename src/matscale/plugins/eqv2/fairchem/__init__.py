"""Import and export of fairchem's checkpoints."""
