r"""Laws in one variable: a power, and a power above a floor.

L = A x^-alpha                (Hestness et al., arXiv:1712.00409)
L = E + A x^-alpha            E >= 0: the part that no size removes (noise of labels, limits of the descriptor)
"""

from __future__ import annotations

import numpy as np

from matscale.plugin import Array
from matscale.plugins.laws.terms import Powers

ALPHAS = np.geomspace(0.02, 3.0, 60)
"""Exponents at which the search for a law with a floor begins."""

PURE = Powers(("x",), ("A", "alpha"), terms={"A": ("alpha",)}, variables={"alpha": ("x",)})
FLOORED = Powers(("x",), ("E", "A", "alpha"), terms={"E": (), "A": ("alpha",)}, variables={"alpha": ("x",)})


def power_starts(x: Array, y: Array) -> Array:
    """Starting point of the fit of a power law: the least-squares line, which is already the minimum."""
    slope = (x[:, 0] * y).sum() / max((x[:, 0] ** 2).sum(), 1e-300)
    return np.array([[0.0, -slope]])


def floor_starts(x: Array, y: Array) -> Array:
    """Starting points of the fit of a power law with a floor: three exponents of a grid, and one without a floor.

    The amplitudes for each exponent are found by least squares (variable projection).
    """
    without = np.concatenate([[-9.0], power_starts(x, y)[0]])
    return np.vstack([FLOORED.starts(x, y, 3, alpha=ALPHAS), without])


POWER = PURE.law(
    name="power",
    summary="A power of one variable.",
    formula="L = A x^-alpha",
    reference="arXiv:1712.00409",
    starts=power_starts,
    exponents=("alpha",),
    min_sizes=3,
)

FLOOR = FLOORED.law(
    name="floor",
    summary="A power of one variable above a floor.",
    formula="L = E + A x^-alpha",
    reference="arXiv:1712.00409",
    starts=floor_starts,
    exponents=("alpha",),
    min_sizes=6,
)
