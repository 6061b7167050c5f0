r"""Mixtures of experts: N active or dense parameters, X experts, D data.

experts       L = E + A N^(-alpha + gamma ln X) X^-delta
experts-data  L = E + A N^(-alpha + gamma ln X) X^-delta + B D^(-beta + zeta ln X) X^-omega
              (Ludziejewski et al., arXiv:2502.05172, with X untransformed; `experts` is this law at a fixed D)
granularity   L = E + (A + G X^-gamma) N^-alpha + B D^-beta
              (Krajewski et al., arXiv:2402.07871; X is the number of experts into which one layer is divided)
"""

from __future__ import annotations

from functools import partial

import numpy as np

from matscale.plugin import Array
from matscale.plugins.laws.joint import ND
from matscale.plugins.laws.terms import EXPONENTS, Powers

COARSE = EXPONENTS[::2]

N_FORM = Powers(
    ("n", "e"),
    ("E", "A", "alpha", "delta", "gamma"),
    terms={"E": (), "A": ("alpha", "delta", "gamma")},
    variables={"alpha": ("n",), "delta": ("e",), "gamma": ("n", "e")},
)
ND_FORM = Powers(
    ("n", "d", "e"),
    (*N_FORM.parameters, "B", "beta", "omega", "zeta"),
    terms={**N_FORM.terms, "B": ("beta", "omega", "zeta")},
    variables={**N_FORM.variables, "beta": ("d",), "omega": ("e",), "zeta": ("d", "e")},
)
GRANULAR = Powers(
    ("n", "d", "e"),
    ("E", "A", "G", "B", "alpha", "beta", "gamma"),
    terms={"E": (), "A": ("alpha",), "G": ("gamma", "alpha"), "B": ("beta",)},
    variables={"alpha": ("n",), "beta": ("d",), "gamma": ("e",)},
)


def experts_data_starts(x: Array, y: Array) -> Array:
    """Starting points of the fit: the joint law in N and D, with and without a gain from experts in its power terms."""
    found = []
    for e, a, b, alpha, beta in ND.starts(x[:, :2], y, 2, alpha=COARSE, beta=COARSE):
        found += [[e, a, alpha, n_gain, 0.0, b, beta, d_gain, 0.0] for n_gain, d_gain in ((0, 0), (0.1, 0), (0.1, 0.1))]
    return np.array(found)


def granularity_starts(x: Array, y: Array) -> Array:
    """Starting points of the fit: the joint law in N and D, in which half of the N term falls with the granularity."""
    found = []
    for e, a, b, alpha, beta in ND.starts(x[:, :2], y, 2, alpha=COARSE, beta=COARSE):
        found += [[e, a - np.log(2), a - np.log(2), b, alpha, beta, gamma] for gamma in (0.3, 1.0)]
    return np.array(found)


EXPERTS = N_FORM.law(
    name="experts",
    summary="Parameters and experts, each of which changes the power of the other; a floor.",
    formula="L = E + A N^(-alpha + gamma ln X) X^-delta",
    reference="arXiv:2502.05172",
    starts=partial(N_FORM.starts, count=4, alpha=COARSE, delta=COARSE / 4),
    exponents=("alpha", "delta"),
)

EXPERTS_DATA = ND_FORM.law(
    name="experts-data",
    summary="Parameters, data and experts; experts change both powers.",
    formula="L = E + A N^(-alpha + gamma ln X) X^-delta + B D^(-beta + zeta ln X) X^-omega",
    reference="arXiv:2502.05172",
    starts=experts_data_starts,
    exponents=("alpha", "beta"),
)

GRANULARITY = GRANULAR.law(
    name="granularity",
    summary="Parameters, data and the granularity of experts, which makes parameters worth more.",
    formula="L = E + (A + G X^-gamma) N^-alpha + B D^-beta",
    reference="arXiv:2402.07871",
    starts=granularity_starts,
    exponents=("alpha", "beta"),
)
