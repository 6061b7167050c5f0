"""Run on disk: training writes it, everything else reads it."""
