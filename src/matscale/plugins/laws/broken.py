r"""Broken power law: one smooth break between two powers, above a floor (Caballero et al., arXiv:2210.14891, n = 1).

    L = E + A x^-alpha (1 + (x / X)^(1 / f))^(-gamma f)

Far below X the exponent is alpha, far above X it is alpha + gamma; f is the width of the break in ln x. The law has six
parameters and needs at least nine sizes.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.special import expit

from matscale.plugin import Array, Law, amplitudes, best_of, log_amplitudes
from matscale.plugins.laws.terms import log_sum, log_sum_and_shares

WIDTHS = (-4.0, 3.0)
"""Bounds of ln f."""


def _falling(alpha: Array, gamma: Array, x_break: Array, width: Array, log_x: Array) -> Array:
    """Compute ln of x^-alpha (1 + (x / X)^(1 / f))^(-gamma f)."""
    return np.asarray(-alpha * log_x - gamma * width * np.logaddexp(0.0, (log_x - x_break) / width))


def _terms(theta: Array, x: Array) -> list[Array]:
    e, a, alpha, gamma, x_break, log_width = (theta[..., j, None] for j in range(6))
    falling = a + _falling(alpha, gamma, x_break, _width(log_width), x[..., 0])
    return [e, falling]


def _width(log_width: Array) -> Array:
    """Width f of the break, limited to `WIDTHS`: sizes cannot distinguish breaks that are still narrower or wider."""
    return np.asarray(np.exp(np.clip(log_width, *WIDTHS)))


def broken(theta: Array, x: Array) -> Array:
    return log_sum(_terms(theta, x))


def tangent(theta: Array, x: Array) -> tuple[Array, Array]:
    _, _, _, gamma, x_break, log_width = (theta[..., j, None] for j in range(6))
    value, (flat, falling) = log_sum_and_shares(_terms(theta, x))
    width = _width(log_width)
    u = (x[..., 0] - x_break) / width
    soft, step = np.logaddexp(0.0, u), expit(u)
    moves = (log_width > WIDTHS[0]) & (log_width < WIDTHS[1])
    columns = [1.0, -x[..., 0], -width * soft, gamma * step, gamma * width * (step * u - soft) * moves]
    return value, np.stack([flat, *(falling * column for column in columns)], axis=-1)


def starts(x: Array, y: Array) -> Array:
    """Starting points of the fit: the best five on a coarse grid of the four parameters that are not amplitudes."""
    inside = np.quantile(x[:, 0], [0.2, 0.35, 0.5, 0.65, 0.8])
    grid = np.array(list(product([-0.1, 0.05, 0.2, 0.4, 0.8], [-0.5, -0.2, 0.2, 0.5, 1.0], inside, [0.1, 0.5, 1.5])))
    alpha, gamma, x_break, width = (grid[:, j, None] for j in range(4))
    falling = np.exp(_falling(alpha, gamma, x_break, width, x[:, 0]))
    c, rss = amplitudes(np.stack([np.ones_like(falling), falling], axis=-1), y)
    best = best_of(rss, 5)
    chosen = grid[best].copy()
    chosen[:, 3] = np.log(chosen[:, 3])
    return np.column_stack([log_amplitudes(c[best]), chosen])


def move(theta: Array, x0: Array, y0: float) -> Array:
    moved = theta.copy()
    moved[..., 0] += y0
    moved[..., 1] += y0 + theta[..., 2] * x0[0]
    moved[..., 4] += x0[0]
    return moved


BROKEN = Law(
    name="broken",
    summary="Two powers of one variable with a smooth break between them, above a floor.",
    formula="L = E + A x^-alpha (1 + (x/X)^(1/f))^(-gamma f)",
    reference="arXiv:2210.14891",
    axes=("x",),
    parameters=("E", "A", "alpha", "gamma", "X", "f"),
    value=broken,
    tangent=tangent,
    starts=starts,
    move=move,
    logs=frozenset({"E", "A", "X", "f"}),
    exponents=("alpha", "gamma"),
    floor="E",
    min_sizes=9,
    verdict="broken law",
)
