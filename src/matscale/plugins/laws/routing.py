r"""Law of routed networks: experts count as parameters, with diminishing returns (arXiv:2202.01169, eq. 12).

    log10 L = a log10 N + b log10 Ê + c log10 N log10 Ê + d,
    1 / Ê = 1 / (X - 1 + (1 / X_start - 1 / X_max)^-1) + 1 / X_max

N is the number of parameters that one input uses, X the number of experts.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from matscale.plugin import Array, Law

LOG10 = np.log(10.0)


STARTS, SPANS = (-8.0, 8.0), (-6.0, 16.0)
"""Bounds of ln X_start, and of ln of the span, which is X_max / X_start - 1."""


def _limits(log_start: Array, log_span: Array) -> tuple[Array, Array, Array]:
    """Compute X_max, (1 / X_start - 1 / X_max)^-1 and the span, with X_max = X_start (1 + span)."""
    start, span = np.exp(np.clip(log_start, *STARTS)), np.exp(np.clip(log_span, *SPANS))
    return start * (1.0 + span), start * (1.0 + 1.0 / span), span


def _effective(log_start: Array, log_span: Array, experts: Array) -> Array:
    """Compute log10 Ê, where Ê is the effective number of experts."""
    top, own, _ = _limits(log_start, log_span)
    return np.asarray(-np.log10(1.0 / (experts - 1.0 + own) + 1.0 / top))


def _slopes(log_start: Array, log_span: Array, experts: Array, e: Array) -> tuple[Array, Array]:
    """Derivatives of e = log10 Ê by ln X_start and by ln of the span."""
    top, own, span = _limits(log_start, log_span)
    scale = 10.0**e / LOG10
    squared = scale / (experts - 1.0 + own) ** 2
    by_start = (own * squared + scale / top) * _inside(log_start, STARTS)
    by_span = (scale * span / (top * (1.0 + span)) - own / (1.0 + span) * squared) * _inside(log_span, SPANS)
    return by_start, by_span


def _inside(value: Array, bounds: tuple[float, float]) -> Array:
    return np.asarray((value > bounds[0]) & (value < bounds[1]), dtype=np.float64)


def routing(theta: Array, x: Array) -> Array:
    a, b, c, d, log_start, log_span = (theta[..., j, None] for j in range(6))
    n, e = x[..., 0] / LOG10, _effective(log_start, log_span, np.exp(x[..., 1]))
    return np.asarray(LOG10 * (a * n + b * e + c * n * e + d))


def tangent(theta: Array, x: Array) -> tuple[Array, Array]:
    a, b, c, d, log_start, log_span = (theta[..., j, None] for j in range(6))
    n, experts = x[..., 0] / LOG10, np.exp(x[..., 1])
    e = _effective(log_start, log_span, experts)
    slopes = _slopes(log_start, log_span, experts, e)
    columns = np.broadcast_arrays(n, e, n * e, 1.0, *((b + c * n) * slope for slope in slopes))
    value = LOG10 * (a * n + b * e + c * n * e + d)
    return np.asarray(value), np.asarray(LOG10 * np.stack(columns, axis=-1))


def starts(x: Array, y: Array) -> Array:
    """Starting points of the fit: several pairs X_start, X_max, with a, b, c, d by least squares."""
    found = []
    n = x[:, 0] / LOG10
    for start, top in product([0.7, 1.0, 2.0, 4.0], [50.0, 200.0, 500.0, 2000.0]):
        log_start, log_span = np.log(start), np.log(top / start - 1.0)
        e = _effective(log_start, log_span, np.exp(x[:, 1]))
        columns = np.column_stack([n, e, n * e, np.ones_like(n)])
        found.append([*np.linalg.lstsq(columns, y / LOG10, rcond=None)[0], log_start, log_span])
    return np.array(found)


ROUTING = Law(
    name="routing",
    summary="Parameters and experts of a routed network.",
    formula="log10 L = a log10 N + b log10 Ê + c log10 N log10 Ê + d",
    reference="arXiv:2202.01169",
    axes=("n", "e"),
    parameters=("a", "b", "c", "d", "X_start", "X_max/X_start-1"),
    value=routing,
    tangent=tangent,
    starts=starts,
    logs=frozenset({"X_start", "X_max/X_start-1"}),
    exponents=("a", "b", "c"),
)
