r"""Joint laws for many epochs: each of U unique structures is seen S / U times, hence repeated R = S / U - 1 times.

repetition   L = E + A N^-alpha + B D'^-beta,  D' = U + U R* (1 - exp(-R / R*))
             A repeated structure helps less than a new one, but never harms (Muennighoff et al., arXiv:2305.16264).
overfitting  L = E + A N^-alpha + B S^-beta + P (R N / U)^kappa
             Repetition harms in the end: the data term falls with S, the structures seen, but a penalty rises with the
             repeats and with the parameters per unique structure. The penalty is 0 for one epoch.

Lovelace et al., arXiv:2605.01640, found that an additive penalty describes the excess loss. Their penalty has one
coefficient and a fixed shape; here the exponent kappa is fitted, since no shape is known for models of atoms.
"""

from __future__ import annotations

import numpy as np

from matscale.plugin import Array
from matscale.plugins.laws.joint import ND
from matscale.plugins.laws.terms import EXPONENTS, Powers

KAPPAS = (0.25, 0.5, 1.0, 1.5)
"""Exponents of the penalty at which the search begins."""
WORTH = (-6.0, 12.0)
"""Bounds of ln R*. Below them, repeated structures are worth nothing; above them, as much as new structures."""
NO_REPEAT = 1e-9
"""Value that replaces R = 0, whose logarithm is not finite."""


def useful(log_r: Array, unique: Array, seen: Array) -> Array:
    """Compute ln D', the effective amount of data, from ln R*, ln U and ln S."""
    r = np.exp(np.clip(log_r, *WORTH))
    repeats = np.maximum(np.exp(seen - unique) - 1.0, 0.0)
    return np.asarray(unique + np.log1p(-r * np.expm1(-repeats / r)))


def _more_useful(log_r: Array, unique: Array, seen: Array) -> Array:
    """Derivative of ln D', the effective amount of data, by ln R*."""
    r = np.exp(np.clip(log_r, *WORTH))
    share = np.maximum(np.exp(seen - unique) - 1.0, 0.0) / r
    fewer = np.expm1(-share)
    slope = -r * (fewer + share * (fewer + 1.0)) / (1.0 - r * fewer)
    return np.asarray(np.where((log_r > WORTH[0]) & (log_r < WORTH[1]), slope, 0.0))


def _worth(theta: Array, x: Array) -> Array:
    """Convert (ln N, ln U, ln S) to (ln N, ln D'), the variables in which `repetition` is a joint law."""
    log_d = useful(theta[..., 5, None], x[..., 1], x[..., 2])
    return np.stack(np.broadcast_arrays(x[..., 0], log_d), axis=-1)


def repetition(theta: Array, x: Array) -> Array:
    return ND.value(theta[..., :5], _worth(theta, x))


def repetition_tangent(theta: Array, x: Array) -> tuple[Array, Array]:
    value, columns = ND.tangent(theta[..., :5], _worth(theta, x))
    by_log_d = -columns[..., 2] * theta[..., 4, None]
    by_log_r = by_log_d * _more_useful(theta[..., 5, None], x[..., 1], x[..., 2])
    return value, np.concatenate([columns, by_log_r[..., None]], axis=-1)


def repetition_starts(x: Array, y: Array) -> Array:
    found = []
    for log_r in np.log([2.0, 8.0, 30.0, 200.0]):
        at = np.column_stack([x[:, 0], useful(log_r, x[:, 1], x[:, 2])])
        found += [[*row, log_r] for row in ND.starts(at, y, 1, alpha=EXPONENTS[::2], beta=EXPONENTS[::2])]
    return np.array(found)


def pressure(x: Array) -> Array:
    """Compute ln(R N / U) from ln N, ln U, ln S: the repeats times the parameters per unique structure."""
    repeats = np.maximum(np.expm1(x[..., 2] - x[..., 1]), NO_REPEAT)
    return np.asarray(np.log(repeats) + x[..., 0] - x[..., 1])


PENALISED = Powers(
    ("n", "s", "relief"),
    ("E", "A", "B", "alpha", "beta", "P", "kappa"),
    terms={"E": (), "A": ("alpha",), "B": ("beta",), "P": ("kappa",)},
    variables={"alpha": ("n",), "beta": ("s",), "kappa": ("relief",)},
)
"""Form of `overfitting` in ln N, ln S and ln of the relief, which is U / (R N); the penalty is P relief^-kappa."""


def _pressed(x: Array) -> Array:
    """Convert (ln N, ln U, ln S) to the variables of `PENALISED`."""
    return np.stack([x[..., 0], x[..., 2], -pressure(x)], axis=-1)


def overfitting(theta: Array, x: Array) -> Array:
    return PENALISED.value(theta, _pressed(x))


def overfitting_tangent(theta: Array, x: Array) -> tuple[Array, Array]:
    return PENALISED.tangent(theta, _pressed(x))


def overfitting_starts(x: Array, y: Array) -> Array:
    """Starting points of the fit: the best pair of exponents for each kappa; amplitudes follow by least squares."""
    at, found, coarse = _pressed(x), [], EXPONENTS[::2]
    most = -at[:, 2].min()
    at[:, 2] += most  # so that an amplitude that vanishes is small against the loss, whatever kappa is
    for kappa in KAPPAS:
        [row] = PENALISED.starts(at, y, 1, alpha=coarse, beta=coarse, kappa=np.array([kappa]))
        found.append(PENALISED.move(row, np.array([0.0, 0.0, -most]), 0.0))
    return np.array(found)


REPETITION = ND.law(
    name="repetition",
    summary="The joint law for many epochs: a repeated structure is worth less than a new one.",
    formula="L = E + A N^-alpha + B D'^-beta, D' = U + U R* (1 - exp(-(S/U - 1)/R*))",
    reference="arXiv:2305.16264",
    axes=("n", "u", "s"),
    parameters=(*ND.parameters, "R*"),
    value=repetition,
    tangent=repetition_tangent,
    starts=repetition_starts,
    move=None,
    logs=frozenset({*ND.terms, "R*"}),
    exponents=("alpha", "beta"),
)

OVERFITTING = PENALISED.law(
    name="overfitting",
    summary="The joint law for many epochs with a penalty: beyond some repeats, more of them raise the loss.",
    formula="L = E + A N^-alpha + B S^-beta + P ((S/U - 1) N/U)^kappa",
    reference="arXiv:2605.01640",
    axes=("n", "u", "s"),
    value=overfitting,
    tangent=overfitting_tangent,
    starts=overfitting_starts,
    move=None,
    exponents=("alpha", "beta"),
)
