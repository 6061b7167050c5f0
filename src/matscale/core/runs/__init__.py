"""A run on disk: training writes it, everything else reads it."""
