"""Least squares with amplitudes that cannot be negative, for a whole grid of exponents at once."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from matscale.core.scaling.law import Array


def amplitudes(columns: Array, logy: Array) -> tuple[Array, Array]:
    """Non-negative c that make Σ_i c_i columns_i closest to L in relative terms, and the sum of squares left.

    `columns` [g, k, m] for g grid points, `logy` [k]; returns c [g, m] and [g]. With m ≤ 3 all subsets of non-zero
    amplitudes are tried (Lawson & Hanson's problem, solved by enumeration), which beats one call per grid point.

    >>> x = np.array([1.0, 2.0, 4.0])
    >>> c, left = amplitudes(np.stack([np.ones(3), 1 / x], axis=-1)[None], np.log(2 + 3 / x))
    >>> c.round(6).tolist(), bool(left[0] < 1e-12)
    ([[2.0, 3.0]], True)
    """
    scaled = columns * np.exp(-logy)[:, None]
    n_grid, _, m = scaled.shape
    scale = np.linalg.norm(scaled, axis=1)  # [g, m]
    scaled = scaled / scale[:, None, :]
    gram = np.einsum("gki,gkj->gij", scaled, scaled)
    right = scaled.sum(axis=1)
    best, found = np.full(n_grid, np.inf), np.zeros((n_grid, m))
    for size in range(1, m + 1):
        for subset in combinations(range(m), size):
            chosen = list(subset)
            inner = gram[:, chosen][:, :, chosen] + 1e-12 * np.eye(size)
            c = np.linalg.solve(inner, right[:, chosen, None])[..., 0]
            left = ((scaled[:, :, chosen] @ c[..., None])[..., 0] - 1.0) ** 2
            rss = np.where((c > 0).all(axis=1), left.sum(axis=1), np.inf)
            better = rss < best
            best = np.where(better, rss, best)
            full = np.zeros((n_grid, m))
            full[:, chosen] = c
            found = np.where(better[:, None], full, found)
    return found / scale, best


def log_amplitudes(c: Array, smallest: float = 1e-5) -> Array:
    """ln c with zeros replaced by something small, so that a search can leave them."""
    return np.log(np.maximum(c, smallest))


def best_of(rss: Array, count: int) -> NDArray[np.intp]:
    """Indices of the `count` smallest, ascending."""
    return np.argsort(rss, kind="stable")[:count]
