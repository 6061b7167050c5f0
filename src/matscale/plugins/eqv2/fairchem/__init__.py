"""Checkpoints of fairchem, both ways."""
