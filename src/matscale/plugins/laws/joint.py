r"""Laws in parameters N and data D together.

nd      L = E + A N^-alpha + B D^-beta                          (Hoffmann et al., arXiv:2203.15556, approach 3)
kaplan  L = [(N_c / N)^(alpha_N / alpha_D) + D_c / D]^alpha_D   (Kaplan et al., arXiv:2001.08361, eq. 1.5)
"""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
from scipy.special import expit

from matscale.plugin import Array, Law
from matscale.plugins.laws.terms import EXPONENTS, Powers

ND = Powers(
    ("n", "d"),
    ("E", "A", "B", "alpha", "beta"),
    terms={"E": (), "A": ("alpha",), "B": ("beta",)},
    variables={"alpha": ("n",), "beta": ("d",)},
)


def kaplan(theta: Array, x: Array) -> Array:
    n_c, d_c, alpha_n, alpha_d = (theta[..., j, None] for j in range(4))
    return alpha_d * np.logaddexp(alpha_n / alpha_d * (n_c - x[..., 0]), d_c - x[..., 1])


def kaplan_tangent(theta: Array, x: Array) -> tuple[Array, Array]:
    n_c, d_c, alpha_n, alpha_d = (theta[..., j, None] for j in range(4))
    n, d = alpha_n / alpha_d * (n_c - x[..., 0]), d_c - x[..., 1]
    of_n = expit(n - d)
    total = np.logaddexp(n, d)
    columns = [of_n * alpha_n, (1 - of_n) * alpha_d, of_n * (n_c - x[..., 0]), total - of_n * n]
    return alpha_d * total, np.stack(columns, axis=-1)


def kaplan_starts(x: Array, y: Array) -> Array:
    """Starting points of the fit: for several exponents, the law whose two terms are equal at a typical point."""
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


CHINCHILLA = ND.law(
    name="nd",
    summary="A floor, a power of the parameters and a power of the data.",
    formula="L = E + A N^-alpha + B D^-beta",
    reference="arXiv:2203.15556",
    starts=partial(ND.starts, count=4, alpha=EXPONENTS, beta=EXPONENTS),
    exponents=("alpha", "beta"),
)

KAPLAN = Law(
    name="kaplan",
    summary="Parameters and data limit each other; no floor.",
    formula="L = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D",
    reference="arXiv:2001.08361",
    axes=("n", "d"),
    parameters=("N_c", "D_c", "alpha_N", "alpha_D"),
    value=kaplan,
    tangent=kaplan_tangent,
    starts=kaplan_starts,
    move=kaplan_move,
    logs=frozenset({"N_c", "D_c"}),
    exponents=("alpha_N", "alpha_D"),
)
