"""Import of fairchem's checkpoints."""
