"""Checkpoints of fairchem."""
