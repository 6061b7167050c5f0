r"""Mixtures of experts: N active or dense parameters, X experts, D data.

experts       L = E + A N^(-alpha + gamma ln X) X^-delta
experts-data  L = E + A N^(-alpha + gamma ln X) X^-delta + B D^(-beta + zeta ln X) X^-omega
              (Ludziejewski et al., arXiv:2502.05172, with the number of experts as it is; `experts` is that at one D)
granularity   L = E + (A + G X^-gamma) N^-alpha + B D^-beta
              (Krajewski et al., arXiv:2402.07871; X is into how many experts one layer is cut)
"""

from __future__ import annotations

import numpy as np

from matscale.plugin import Array, Law, amplitudes, best_of, log_amplitudes
from matscale.plugins.laws.joint import EXPONENTS, projected
from matscale.plugins.laws.terms import log_sum, shares


def _powers(theta: Array, x: Array, at: tuple[int, int, int, int], e: Array) -> Array:
    """Compute ln of A x^(-alpha + gamma ln X) X^-delta; `at` holds the places of ln A, alpha, delta, gamma in theta."""
    a, alpha, delta, gamma = (theta[..., j, None] for j in at)
    return np.asarray(a - alpha * x - delta * e + gamma * x * e)


def _moved(theta: Array, at: tuple[int, int, int, int], x0: float, e0: float, y0: float) -> Array:
    """Move the powers at `at` in `theta`: x -> x x0, X -> X e0, L -> L y0, all in logarithms."""
    moved = theta.copy()
    _, alpha, delta, gamma = (theta[..., j] for j in at)
    moved[..., at[0]] += y0 + alpha * x0 + delta * e0 + gamma * x0 * e0
    moved[..., at[1]] += gamma * e0
    moved[..., at[2]] += gamma * x0
    return moved


N_TERM, D_TERM = (1, 2, 3, 4), (5, 6, 7, 8)


def _terms(theta: Array, x: Array) -> Array:
    n_term = _powers(theta, x[..., 0], N_TERM, x[..., -1])
    parts = [np.broadcast_to(theta[..., 0, None], n_term.shape), n_term]
    if theta.shape[-1] > 5:
        parts.append(_powers(theta, x[..., 1], D_TERM, x[..., -1]))
    return np.stack(parts)


def experts(theta: Array, x: Array) -> Array:
    return log_sum(_terms(theta, x))


def experts_jacobian(theta: Array, x: Array) -> Array:
    flat, *rest = shares(_terms(theta, x))
    columns = [flat]
    for k, share in enumerate(rest):
        columns += [share, -share * x[..., k], -share * x[..., -1], share * x[..., k] * x[..., -1]]
    return np.stack(columns, axis=-1)


def experts_move(theta: Array, x0: Array, y0: float) -> Array:
    moved = _moved(theta, N_TERM, x0[0], x0[-1], y0)
    if theta.shape[-1] > 5:
        moved = _moved(moved, D_TERM, x0[1], x0[-1], y0)
    moved[..., 0] += y0
    return moved


def experts_starts(x: Array, y: Array) -> Array:
    """Starts by variable projection: for each pair of exponents of N and X the best E, A >= 0.

    The grid's best four are returned.
    """
    grid = np.stack(np.meshgrid(EXPONENTS[::2], EXPONENTS[::2] / 4, indexing="ij"), axis=-1).reshape(-1, 2)
    falling = np.exp(-grid @ x.T)
    c, rss = amplitudes(np.stack([np.ones_like(falling), falling], axis=-1), y)
    best = best_of(rss, 4)
    return np.column_stack([log_amplitudes(c[best]), grid[best], np.zeros(len(best))])


def experts_data_starts(x: Array, y: Array) -> Array:
    """Starts from the joint law in N and D, with and without a gain by experts in each term."""
    found = []
    for e, a, b, alpha, beta in projected(x[:, 0], x[:, 1], y, EXPONENTS[::2], 2):
        found += [[e, a, alpha, n_gain, 0.0, b, beta, d_gain, 0.0] for n_gain, d_gain in ((0, 0), (0.1, 0), (0.1, 0.1))]
    return np.array(found)


def _granular_terms(theta: Array, x: Array) -> Array:
    e, a, g, b, alpha, beta, gamma = (theta[..., j, None] for j in range(7))
    n, d, cut = x[..., 0], x[..., 1], x[..., 2]
    rest = np.broadcast_arrays(a - alpha * n, g - gamma * cut - alpha * n, b - beta * d)
    return np.stack([np.broadcast_to(e, rest[0].shape), *rest])


def granularity(theta: Array, x: Array) -> Array:
    return log_sum(_granular_terms(theta, x))


def granularity_jacobian(theta: Array, x: Array) -> Array:
    e, a, g, b = shares(_granular_terms(theta, x))
    return np.stack([e, a, g, b, -(a + g) * x[..., 0], -b * x[..., 1], -g * x[..., 2]], axis=-1)


def granularity_move(theta: Array, x0: Array, y0: float) -> Array:
    alpha, beta, gamma = (theta[..., j] for j in (4, 5, 6))
    moved = theta.copy()
    moved[..., :4] += y0
    moved[..., 1] += alpha * x0[0]
    moved[..., 2] += alpha * x0[0] + gamma * x0[2]
    moved[..., 3] += beta * x0[1]
    return moved


def granularity_starts(x: Array, y: Array) -> Array:
    """Starts from the joint law in N and D, with half of its N term falling with the granularity."""
    found = []
    for e, a, b, alpha, beta in projected(x[:, 0], x[:, 1], y, EXPONENTS[::2], 2):
        found += [[e, a - np.log(2), a - np.log(2), b, alpha, beta, gamma] for gamma in (0.3, 1.0)]
    return np.array(found)


EXPERTS = Law(
    name="experts",
    summary="Parameters and experts, each of which changes the power of the other; a floor.",
    formula="L = E + A N^(-alpha + gamma ln X) X^-delta",
    reference="arXiv:2502.05172",
    axes=("n", "e"),
    parameters=("E", "A", "alpha", "delta", "gamma"),
    value=experts,
    jacobian=experts_jacobian,
    starts=experts_starts,
    move=experts_move,
    logs=frozenset({"E", "A"}),
    exponents=("alpha", "delta"),
    floor="E",
    verdict="law with floor",
)

EXPERTS_DATA = Law(
    name="experts-data",
    summary="Parameters, data and experts; experts change both powers.",
    formula="L = E + A N^(-alpha + gamma ln X) X^-delta + B D^(-beta + zeta ln X) X^-omega",
    reference="arXiv:2502.05172",
    axes=("n", "d", "e"),
    parameters=("E", "A", "alpha", "delta", "gamma", "B", "beta", "omega", "zeta"),
    value=experts,
    jacobian=experts_jacobian,
    starts=experts_data_starts,
    move=experts_move,
    logs=frozenset({"E", "A", "B"}),
    exponents=("alpha", "beta"),
    floor="E",
    verdict="law with floor",
)

GRANULARITY = Law(
    name="granularity",
    summary="Parameters, data and the granularity of experts, which makes parameters worth more.",
    formula="L = E + (A + G X^-gamma) N^-alpha + B D^-beta",
    reference="arXiv:2402.07871",
    axes=("n", "d", "e"),
    parameters=("E", "A", "G", "B", "alpha", "beta", "gamma"),
    value=granularity,
    jacobian=granularity_jacobian,
    starts=granularity_starts,
    move=granularity_move,
    logs=frozenset({"E", "A", "G", "B"}),
    exponents=("alpha", "beta"),
    floor="E",
    verdict="law with floor",
)
