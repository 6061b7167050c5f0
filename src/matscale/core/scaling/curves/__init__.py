"""Training curves against the share of the run that is done: do all sizes share one curve, and where will a run end."""
