"""Tables of losses by model size, data and compute, from runs and from files."""
