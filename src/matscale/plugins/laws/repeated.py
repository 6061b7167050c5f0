r"""Joint laws for many epochs: U unique structures, each seen S / U times, R = S / U - 1 of them again.

repetition   L = E + A N^-alpha + B D'^-beta,  D' = U + U R* (1 - exp(-R / R*))
             A repeated structure is worth less than a new one, and never harms (Muennighoff et al., arXiv:2305.16264).
overfitting  L = E + A N^-alpha + B S^-beta + P (R N / U)^kappa
             Repetition harms in the end: the data term falls with all that is seen, and a penalty rises with the
             repeats and with the parameters per structure. It is 0 for one epoch.

Lovelace et al., arXiv:2605.01640, found that an additive penalty describes the excess loss. Their penalty has one
coefficient and a fixed shape; here the exponent kappa is fitted, since no shape is known for models of atoms.
"""

from __future__ import annotations

import numpy as np

from matscale.plugin import Array, Law
from matscale.plugins.laws.joint import EXPONENTS, projected
from matscale.plugins.laws.terms import log_sum, shares

KAPPAS = (0.25, 0.5, 1.0, 1.5)
"""Exponents of the penalty at which the search begins."""
WORTH = (-6.0, 12.0)
"""Bounds of ln R*: beyond them repeats are worth nothing, or as much as new structures."""
NO_REPEAT = 1e-9
"""Stands for R = 0, of which there is no logarithm."""


def useful(log_r: Array, unique: Array, seen: Array) -> Array:
    """Compute ln D' from ln R*, ln U and ln S."""
    r = np.exp(np.clip(log_r, *WORTH))
    repeats = np.maximum(np.exp(seen - unique) - 1.0, 0.0)
    return np.asarray(unique + np.log1p(-r * np.expm1(-repeats / r)))


def _more_useful(log_r: Array, unique: Array, seen: Array) -> Array:
    """Derivative of ln D' by ln R*."""
    r = np.exp(np.clip(log_r, *WORTH))
    share = np.maximum(np.exp(seen - unique) - 1.0, 0.0) / r
    fewer = np.expm1(-share)
    slope = -r * (fewer + share * (fewer + 1.0)) / (1.0 - r * fewer)
    return np.asarray(np.where((log_r > WORTH[0]) & (log_r < WORTH[1]), slope, 0.0))


def _repetition_terms(theta: Array, x: Array, log_d: Array) -> Array:
    e, a, b, alpha, beta = (theta[..., j, None] for j in range(5))
    falling = np.broadcast_arrays(a - alpha * x[..., 0], b - beta * log_d)
    return np.stack([np.broadcast_to(e, falling[0].shape), *falling])


def repetition(theta: Array, x: Array) -> Array:
    return log_sum(_repetition_terms(theta, x, useful(theta[..., 5, None], x[..., 1], x[..., 2])))


def repetition_jacobian(theta: Array, x: Array) -> Array:
    log_r, beta = theta[..., 5, None], theta[..., 4, None]
    log_d = useful(log_r, x[..., 1], x[..., 2])
    e, a, b = shares(_repetition_terms(theta, x, log_d))
    more = _more_useful(log_r, x[..., 1], x[..., 2])
    return np.stack([e, a, b, -a * x[..., 0], -b * log_d, -b * beta * more], axis=-1)


def repetition_starts(x: Array, y: Array) -> Array:
    found = []
    for log_r in np.log([2.0, 8.0, 30.0, 200.0]):
        found += [[*row, log_r] for row in projected(x[:, 0], useful(log_r, x[:, 1], x[:, 2]), y, EXPONENTS[::2], 1)]
    return np.array(found)


def pressure(x: Array) -> Array:
    """Compute ln (R N / U) from ln N, ln U, ln S."""
    repeats = np.maximum(np.expm1(x[..., 2] - x[..., 1]), NO_REPEAT)
    return np.asarray(np.log(repeats) + x[..., 0] - x[..., 1])


def _terms(theta: Array, x: Array) -> Array:
    e, a, b, alpha, beta, penalty, kappa = (theta[..., j, None] for j in range(7))
    rest = np.broadcast_arrays(a - alpha * x[..., 0], b - beta * x[..., 2], penalty + kappa * pressure(x))
    return np.stack([np.broadcast_to(e, rest[0].shape), *rest])


def overfitting(theta: Array, x: Array) -> Array:
    return log_sum(_terms(theta, x))


def overfitting_jacobian(theta: Array, x: Array) -> Array:
    e, a, b, penalty = shares(_terms(theta, x))
    return np.stack([e, a, b, -a * x[..., 0], -b * x[..., 2], penalty, penalty * pressure(x)], axis=-1)


def overfitting_starts(x: Array, y: Array) -> Array:
    """Starts by variable projection with four amplitudes: the best pair of exponents for each kappa."""
    found = []
    for kappa in KAPPAS:
        shape = kappa * pressure(x)
        scale = shape.max()  # so that an amplitude that vanishes is small against the loss, whatever kappa is
        for row in projected(x[:, 0], x[:, 2], y, EXPONENTS[::2], 1, penalty=shape - scale):
            found.append([*row[:5], row[5] - scale, kappa])
    return np.array(found)


REPETITION = Law(
    name="repetition",
    summary="The joint law for many epochs: a repeated structure is worth less than a new one.",
    formula="L = E + A N^-alpha + B D'^-beta, D' = U + U R* (1 - exp(-(S/U - 1)/R*))",
    reference="arXiv:2305.16264",
    axes=("n", "u", "s"),
    parameters=("E", "A", "B", "alpha", "beta", "R*"),
    value=repetition,
    jacobian=repetition_jacobian,
    starts=repetition_starts,
    logs=frozenset({"E", "A", "B", "R*"}),
    exponents=("alpha", "beta"),
    floor="E",
    verdict="law with floor",
)

OVERFITTING = Law(
    name="overfitting",
    summary="The joint law for many epochs with a penalty: beyond some repeats, more of them raise the loss.",
    formula="L = E + A N^-alpha + B S^-beta + P ((S/U - 1) N/U)^kappa",
    reference="arXiv:2605.01640",
    axes=("n", "u", "s"),
    parameters=("E", "A", "B", "alpha", "beta", "P", "kappa"),
    value=overfitting,
    jacobian=overfitting_jacobian,
    starts=overfitting_starts,
    logs=frozenset({"E", "A", "B", "P"}),
    exponents=("alpha", "beta"),
    floor="E",
    verdict="law with floor",
)
