"""Estimates of parameters, FLOPs, memory and time of a run before it is trained."""
