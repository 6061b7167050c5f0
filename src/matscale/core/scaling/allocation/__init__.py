"""Allocation of compute: which runs to train next, and how to spend a budget."""
