"""Sums of powers in logarithms: ln Σ_i exp(t_i), and its derivatives by each term."""

from __future__ import annotations

import numpy as np

from matscale.plugin import Array


def log_sum(terms: Array) -> Array:
    """Compute ln Σ_i exp(terms_i) [..., k] of terms [m, ..., k]."""
    top = terms.max(axis=0)
    parts = terms - top
    return np.asarray(top + np.log(np.exp(parts, out=parts).sum(axis=0)))


def shares(terms: Array) -> Array:
    """Share of each term in the sum [m, ..., k]: the derivative of `log_sum` by that term."""
    parts: Array = terms - terms.max(axis=0)
    np.exp(parts, out=parts)
    parts /= parts.sum(axis=0)
    return parts
