"""Curves of runs against the share of a run that is done: do all sizes fall on one, and where will a run end."""
