"""Import of checkpoints of fairchem."""
