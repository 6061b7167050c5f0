"""`matscale predict`, `evaluate` and `view`: commands on trained models."""
