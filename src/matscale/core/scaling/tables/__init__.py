"""Tables of losses by size, from runs and from files."""
