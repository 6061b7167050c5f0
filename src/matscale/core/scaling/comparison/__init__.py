"""Comparison of architectures: whether their exponents differ, and what resources each needs for the same loss."""
