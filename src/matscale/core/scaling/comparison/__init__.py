"""Comparison of the exponents of two architectures, and of the resources that each needs for the same loss."""
