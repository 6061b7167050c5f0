r"""Laws in one variable: a power, and a power above a floor.

L = A x^-alpha                (Hestness et al., arXiv:1712.00409) L = E + A x^-alpha            E >= 0: the part that no
size removes (noise of the labels, limits of the descriptor)
"""

from __future__ import annotations

import numpy as np

from matscale.plugin import Array, Law, amplitudes, best_of, log_amplitudes
from matscale.plugins.laws.terms import log_sum, shares

ALPHAS = np.geomspace(0.02, 3.0, 60)
"""Exponents at which the search for a floor begins."""


def power(theta: Array, x: Array) -> Array:
    return theta[..., 0, None] - theta[..., 1, None] * x[..., 0]


def power_jacobian(theta: Array, x: Array) -> Array:
    log_x = np.broadcast_to(x[..., 0], theta.shape[:-1] + x.shape[-2:-1])
    return np.stack([np.ones_like(log_x), -log_x], axis=-1)


def power_starts(x: Array, y: Array) -> Array:
    """Start of the search: the least-squares line, which is the minimum already."""
    slope = (x[:, 0] * y).sum() / max((x[:, 0] ** 2).sum(), 1e-300)
    return np.array([[0.0, -slope]])


def power_move(theta: Array, x0: Array, y0: float) -> Array:
    moved = theta.copy()
    moved[..., 0] += y0 + theta[..., 1] * x0[0]
    return moved


def _terms(theta: Array, x: Array) -> Array:
    flat = np.broadcast_to(theta[..., 0, None], theta.shape[:-1] + x.shape[-2:-1])
    return np.stack([flat, power(theta[..., 1:], x)])


def floor(theta: Array, x: Array) -> Array:
    return log_sum(_terms(theta, x))


def floor_jacobian(theta: Array, x: Array) -> Array:
    flat, falling = shares(_terms(theta, x))
    return np.stack([flat, falling, -falling * x[..., 0]], axis=-1)


def floor_starts(x: Array, y: Array) -> Array:
    """Starts by variable projection: for each exponent of a grid the best E, A >= 0.

    They are the grid's best three, and one without a floor.
    """
    columns = np.stack([np.ones((len(ALPHAS), len(y))), np.exp(-ALPHAS[:, None] * x[:, 0])], axis=-1)
    c, rss = amplitudes(columns, y)
    best = best_of(rss, 3)
    with_floor = np.column_stack([log_amplitudes(c[best]), ALPHAS[best]])
    without = np.concatenate([[-9.0], power_starts(x, y)[0]])
    return np.vstack([with_floor, without])


def floor_move(theta: Array, x0: Array, y0: float) -> Array:
    moved = theta.copy()
    moved[..., 0] += y0
    moved[..., 1] += y0 + theta[..., 2] * x0[0]
    return moved


POWER = Law(
    name="power",
    summary="A power of one variable.",
    formula="L = A x^-alpha",
    reference="arXiv:1712.00409",
    axes=("x",),
    parameters=("A", "alpha"),
    value=power,
    jacobian=power_jacobian,
    starts=power_starts,
    move=power_move,
    logs=frozenset({"A"}),
    exponents=("alpha",),
    min_sizes=3,
)

FLOOR = Law(
    name="floor",
    summary="A power of one variable above a floor.",
    formula="L = E + A x^-alpha",
    reference="arXiv:1712.00409",
    axes=("x",),
    parameters=("E", "A", "alpha"),
    value=floor,
    jacobian=floor_jacobian,
    starts=floor_starts,
    move=floor_move,
    logs=frozenset({"E", "A"}),
    exponents=("alpha",),
    floor="E",
    min_sizes=6,
    verdict="law with floor",
)
