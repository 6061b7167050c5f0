r"""Farseer law: parameters and data, with exponents that depend on each other (Li et al., arXiv:2506.10972).

    ln L = ln( exp(s N^q + S) + exp(B N^b + Q) D^(-exp(A N^a + G)) )

The law has nine parameters. Here each of the three functions of N is parametrised by its value at N = N1, its slope in
ln N there, and a power that bends it:

    f(N) = f1 + slope ((N/N1)^power - 1) / power

These are the same functions, but numerically stable; at power 0 they are linear in ln N. The data term is parametrised
by its value at N1 and D1. Unlike other joint laws, the law depends on the unit of D, which is one structure (or token).
"""

from __future__ import annotations

from itertools import product

import numpy as np

from matscale.plugin import Array, Law
from matscale.plugins.laws.joint import ND
from matscale.plugins.laws.terms import EXPONENTS, log_sum, log_sum_and_shares, side_by_side

ANCHOR = float(np.log(1e7))
"""ln N1, which is also ln D1"""


def bent(n: Array, power: Array) -> tuple[Array, Array]:
    """Compute (u - 1) / power with u = N^power, for `n` = ln N; also ln u, which the derivative by the power needs.

    At power 0, the first has its limit n.
    """
    power = np.where(np.abs(power) < 1e-12, 1e-12, power)
    z = np.clip(power * n, -30.0, 30.0)
    grown = np.expm1(z)
    return np.divide(grown, power, out=grown), z


def by_power(n: Array, power: Array, value: Array, z: Array) -> Array:
    """Derivative of `bent` by the power, from what it returned; at power 0, it has its limit n² / 2."""
    small = np.abs(power) < 1e-6
    # d/dp (e^(pn) - 1) / p = (n e^(pn) - value) / p
    slope = (z * (value * power + 1.0) / np.where(small, 1.0, power) - value) / np.where(small, 1.0, power)
    return np.where(small, n**2 * (0.5 + power * n / 3), slope) if small.any() else slope


def _of_size(theta: Array, n: Array, slopes: bool) -> list[Array]:
    """Compute the functions of N in the law: ln of the floor, ln of the data term at D = 1, slope in ln D.

    `n` is ln(N / N1). With `slopes`, values that the derivatives need come after these three.
    """
    e, s, q, a, t, b, beta, g, c = (theta[..., j, None] for j in range(9))
    (floor, z_q), (lever, z_b), (steeper, z_c) = bent(n, q), bent(n, b), bent(n, c)
    with np.errstate(over="ignore"):
        slope = np.exp(np.minimum(beta - g * steeper, 5.0))
    # The value at N1 and D1 is independent of the exponents; otherwise the search would have to change both together.
    value = a - t * lever + np.exp(np.minimum(beta, 5.0)) * ANCHOR
    known = [e - s * floor, value, slope]
    if not slopes:
        return known
    d_q, d_b, d_c = (by_power(n, *one) for one in ((q, floor, z_q), (b, lever, z_b), (c, steeper, z_c)))
    return [*known, floor, s * d_q, lever, t * d_b, steeper, g * d_c]


def _at_runs(theta: Array, x: Array, slopes: bool = False) -> list[Array]:
    """Compute the functions of N (see `_of_size`) at all runs, once for each distinct N.

    The exponentials in these functions would otherwise dominate the time of a fit.
    """
    n = x[..., 0] - ANCHOR
    if n.ndim > 1:
        return _of_size(theta, n, slopes)
    sizes, size = np.unique(n, return_inverse=True)
    if len(sizes) == len(n):
        return _of_size(theta, n, slopes)
    return [column[..., size] for column in _of_size(theta, sizes, slopes)]


def farseer(theta: Array, x: Array) -> Array:
    level, value, slope = _at_runs(theta, x)
    return log_sum([level, value - slope * x[..., 1]])


def tangent(theta: Array, x: Array) -> tuple[Array, Array]:
    level, value, slope, floor, by_q, lever, by_b, steeper, by_c = _at_runs(theta, x, slopes=True)
    slope = slope * x[..., 1]
    total, (level, falling) = log_sum_and_shares([level, value - slope])
    by_beta = np.exp(np.minimum(theta[..., 6, None], 5.0)) * ANCHOR - slope
    moved = falling * slope
    columns = [
        *(level, -level * floor, -level * by_q),
        *(falling, -falling * lever, -falling * by_b),
        *(falling * by_beta, moved * steeper, moved * by_c),
    ]
    return total, side_by_side(columns)


def starts(x: Array, y: Array) -> Array:
    """Starting points of the fit: the best joint law E + A N^-alpha + B D^-beta, with several powers that bend it."""
    middle = x.mean(axis=0)
    n = middle[0] - ANCHOR
    [(e, a, b, alpha, beta)] = ND.starts(x - middle, y - y.mean(), 1, alpha=EXPONENTS[::2], beta=EXPONENTS[::2])
    level, share = np.logaddexp(e, a) + y.mean(), 1.0 / (1.0 + np.exp(e - a))
    found = []
    beta = float(np.clip(beta, 0.05, 1.0))
    for t, g in product([0.0, -0.2], [0.0, 0.1]):
        # ln of the slope in D is ln beta - g (n - middle); the data term is moved from the middle to N1 and D1.
        at_anchor = np.log(beta) + g * n
        value = b + y.mean() + t * n + beta * middle[1] - np.exp(at_anchor) * ANCHOR
        found.append([level + share * alpha * n, share * alpha, 0.01, value, t, -0.01, at_anchor, g, 0.01])
    return np.array(found)


FARSEER = Law(
    name="farseer",
    summary="Parameters and data whose powers depend on each other; nine parameters, for grids of many runs.",
    formula="L = E e^(-s h(q)) + A e^(-t h(b)) M^beta D^(-beta e^(-g h(a))), h(p) = ((N/M)^p - 1)/p, M = 10^7",
    reference="arXiv:2506.10972",
    axes=("n", "d"),
    parameters=("E", "s", "q", "A", "t", "b", "beta", "g", "a"),
    value=farseer,
    tangent=tangent,
    starts=starts,
    logs=frozenset({"E", "A", "beta"}),
    exponents=("beta",),
)
