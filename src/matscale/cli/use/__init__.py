"""`matscale predict`, `evaluate`, `properties` and `view`: commands on trained models."""
