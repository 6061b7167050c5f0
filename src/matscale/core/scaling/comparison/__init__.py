"""Comparison of the exponents of two architectures."""
