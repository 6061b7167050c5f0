r"""Laws in parameters N and data D together.

nd      L = E + A N^-alpha + B D^-beta                          (Hoffmann et al., arXiv:2203.15556, approach 3)
kaplan  L = [(N_c / N)^(alpha_N / alpha_D) + D_c / D]^alpha_D   (Kaplan et al., arXiv:2001.08361, eq. 1.5)
"""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.special import expit

from matscale.plugin import Array, Law, amplitudes, best_of, log_amplitudes
from matscale.plugins.laws.terms import log_sum, shares

EXPONENTS = np.linspace(0.02, 2.0, 40)
"""Grid of alpha and of beta at which the search begins; 40 × 40 of them."""


def _terms(theta: Array, n: Array, d: Array) -> Array:
    e, a, b, alpha, beta = (theta[..., j, None] for j in range(5))
    falling = np.broadcast_arrays(a - alpha * n, b - beta * d)
    return np.stack([np.broadcast_to(e, falling[0].shape), *falling])


def chinchilla(theta: Array, x: Array) -> Array:
    return log_sum(_terms(theta, x[..., 0], x[..., 1]))


def chinchilla_jacobian(theta: Array, x: Array) -> Array:
    n, d = x[..., 0], x[..., 1]
    e, a, b = shares(_terms(theta, n, d))
    return np.stack([e, a, b, -a * n, -b * d], axis=-1)


def chinchilla_starts(x: Array, y: Array) -> Array:
    """Starts by variable projection: for each pair of exponents the best E, A, B >= 0; the best four of the grid."""
    return projected(x[:, 0], x[:, 1], y, EXPONENTS)


def projected(n: Array, d: Array, y: Array, exponents: Array, count: int = 4, penalty: Array | None = None) -> Array:
    """(amplitudes, exponents) [count, 5] of the best pairs of exponents; with one more term if `penalty` [k] is ln of
    its shape, whose amplitude then comes last [count, 6]."""
    grid = np.array(list(product(exponents, exponents)))
    columns = np.ones((len(grid), len(y), 3 if penalty is None else 4))
    columns[..., 1] = np.exp(-grid[:, :1] * n)
    columns[..., 2] = np.exp(-grid[:, 1:] * d)
    if penalty is not None:
        columns[..., 3] = np.exp(penalty)
    c, rss = amplitudes(columns, y)
    best = best_of(rss, count)
    log_c = log_amplitudes(c[best])
    return np.column_stack([log_c[:, :3], grid[best], log_c[:, 3:]])


def chinchilla_move(theta: Array, x0: Array, y0: float) -> Array:
    moved = theta.copy()
    moved[..., :3] += y0
    moved[..., 1] += theta[..., 3] * x0[0]
    moved[..., 2] += theta[..., 4] * x0[1]
    return moved


def kaplan(theta: Array, x: Array) -> Array:
    n_c, d_c, alpha_n, alpha_d = (theta[..., j, None] for j in range(4))
    return alpha_d * np.logaddexp(alpha_n / alpha_d * (n_c - x[..., 0]), d_c - x[..., 1])


def kaplan_jacobian(theta: Array, x: Array) -> Array:
    n_c, d_c, alpha_n, alpha_d = (theta[..., j, None] for j in range(4))
    n, d = alpha_n / alpha_d * (n_c - x[..., 0]), d_c - x[..., 1]
    of_n = expit(n - d)
    columns = [of_n * alpha_n, (1 - of_n) * alpha_d, of_n * (n_c - x[..., 0]), np.logaddexp(n, d) - of_n * n]
    return np.stack(columns, axis=-1)


def kaplan_starts(x: Array, y: Array) -> Array:
    """Starts at which the two terms are equal at a typical point, for some exponents."""
    found = []
    for alpha_n, alpha_d in product([0.05, 0.1, 0.2, 0.4, 0.8], repeat=2):
        level = float(np.mean(y)) / alpha_d - np.log(2.0)
        found.append([level * alpha_d / alpha_n, level, alpha_n, alpha_d])
    return np.array(found)


def kaplan_move(theta: Array, x0: Array, y0: float) -> Array:
    moved = theta.copy()
    moved[..., 0] += x0[0] + y0 / theta[..., 2]
    moved[..., 1] += x0[1] + y0 / theta[..., 3]
    return moved


CHINCHILLA = Law(
    name="nd",
    summary="A floor, a power of the parameters and a power of the data.",
    formula="L = E + A N^-alpha + B D^-beta",
    reference="arXiv:2203.15556",
    axes=("n", "d"),
    parameters=("E", "A", "B", "alpha", "beta"),
    value=chinchilla,
    jacobian=chinchilla_jacobian,
    starts=chinchilla_starts,
    move=chinchilla_move,
    logs=frozenset({"E", "A", "B"}),
    exponents=("alpha", "beta"),
    floor="E",
    verdict="law with floor",
)

KAPLAN = Law(
    name="kaplan",
    summary="Parameters and data limit each other; no floor.",
    formula="L = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D",
    reference="arXiv:2001.08361",
    axes=("n", "d"),
    parameters=("N_c", "D_c", "alpha_N", "alpha_D"),
    value=kaplan,
    jacobian=kaplan_jacobian,
    starts=kaplan_starts,
    move=kaplan_move,
    logs=frozenset({"N_c", "D_c"}),
    exponents=("alpha_N", "alpha_D"),
)
