"""Comparison of the exponents of two architectures, and of what each needs for the same loss."""
