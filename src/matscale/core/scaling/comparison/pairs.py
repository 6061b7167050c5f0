"""Two architectures: the difference of their exponents, the ratio of their losses, where their laws cross."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from matscale.core.scaling.comparison.power_of_test import Settling, power, settling, smallest_difference
from matscale.core.scaling.intervals import LEVEL, Spread, quantile, spread
from matscale.core.scaling.law import Array, Law
from matscale.core.scaling.means import Means
from matscale.core.scaling.result import Fit
from matscale.core.scaling.solve import solve

DIFFERENT, NOT_SHOWN, NO_TEST = "exponents differ", "no difference shown", "not comparable"
FIRST_LAWS = "each needs a law first: what speaks against one is said above"
WORTH_SEEING = 0.04
"""Difference of exponents for which the power is stated."""


@dataclass(frozen=True)
class Ratio:
    """Loss of the first over that of the second, at one value of the variable."""

    at: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Pair:
    """Two architectures."""

    first: str
    second: str
    difference: float
    """Exponent of the first less that of the second"""
    interval: tuple[float, float]
    p: float
    """Probability of such a difference between equal exponents; NaN where they cannot be compared"""
    p_adjusted: float
    """After Holm's correction over all pairs"""
    verdict: str
    reason: str
    """Why they cannot be compared"""
    ratios: tuple[Ratio, ...]
    crossing: tuple[float, float, float] | None
    """(value, low, high) of the variable where the laws meet; infinite ends: not bounded by these points"""
    power: float
    """Probability to see a difference of `WORTH_SEEING` with such points"""
    smallest: float
    """Difference that is seen with 80 %"""
    settling: Settling
    basis: str = ""
    """Which exponents were compared, if not those of `fits`: `alpha of the joint laws nd`"""


def tested(a: str, b: str, means: Mapping[str, Means], fits: Mapping[str, Fit], law: Law) -> Pair:
    """The test of one pair; `p_adjusted` is still `p`."""
    first, second, freedom = pooled(means[a], means[b], law)
    name = law.exponents[0]
    j = law.parameters.index(name)
    difference = float(first.theta[j] - second.theta[j])
    error = float(np.sqrt(first.covariance[j, j] + second.covariance[j, j]))
    half = quantile(LEVEL, freedom) * error
    reason = _hindrance([fits[a], fits[b]], freedom)
    p = float("nan") if reason else 2 * float(stats.t.sf(abs(difference) / max(error, 1e-300), freedom))
    return Pair(
        first=a,
        second=b,
        difference=difference,
        interval=(difference - half, difference + half),
        p=p,
        p_adjusted=p,
        verdict=NO_TEST if reason else NOT_SHOWN,
        reason=reason,
        ratios=tuple(_ratios(first, second, freedom, means[a], means[b])),
        crossing=None if reason else _crossing(first, second, freedom, means[a], means[b]),
        power=float("nan") if reason else power(WORTH_SEEING, error, freedom),
        smallest=float("nan") if reason else smallest_difference(error, freedom),
        settling=Settling(None, None, FIRST_LAWS)
        if reason
        else settling(difference, means[a], means[b], first.scatter, freedom),
    )


def _hindrance(fits: Sequence[Fit], freedom: int) -> str:
    """Why the exponents cannot be compared: that of a line which is no law says nothing; empty if they can."""
    doubts = [
        f"{fit.architecture} is {fit.verdict} ({'; '.join(str(reason) for reason in fit.reasons)})"
        for fit in fits
        if not fit.is_law
    ]
    if doubts:
        return f"the exponents cannot be compared: {', and '.join(doubts)}"
    return "" if freedom > 0 else "the exponents cannot be compared: there are no more sizes than parameters"


def pooled(a: Means, b: Means, law: Law) -> tuple[Spread, Spread, int]:
    """The two laws with one common scatter, and its degrees of freedom."""
    spreads = []
    for means in (a, b):
        found = solve(law, means.x, means.y)
        spreads.append(spread(law, found.theta, found.frame, means.x, means.y))
    freedom = sum(one.freedom for one in spreads)
    if any(one.freedom == 0 for one in spreads):
        return spreads[0], spreads[1], 0
    squares = sum(one.scatter**2 * one.freedom for one in spreads) / freedom
    first, second = (
        replace(
            one,
            covariance=one.covariance * (squares / one.scatter**2 if one.scatter > 0 else 1.0),
            scatter=float(np.sqrt(squares)),
            freedom=freedom,
        )
        for one in spreads
    )
    return first, second, freedom


def _log_ratio(first: Spread, second: Spread, logx: Array) -> tuple[Array, Array]:
    """ln(L1 / L2) at `logx` [m], and its standard error."""
    at = logx[:, None]
    values, variances = [], []
    for one in (first, second):
        gradient = one.law.derivatives(one.theta, at - one.frame.x)
        values.append(one.law.value(one.theta, at - one.frame.x) + one.frame.y)
        variances.append(np.einsum("kp,pq,kq->k", gradient, one.covariance, gradient))
    return values[0] - values[1], np.sqrt(variances[0] + variances[1])


def overlap(*means: Means) -> tuple[float, float]:
    """ln of the smallest and largest value that all architectures reach; equal ends if they share none."""
    low, high = max(float(m.x.min()) for m in means), min(float(m.x.max()) for m in means)
    return (low, high) if low <= high else ((low + high) / 2, (low + high) / 2)


def _ratios(first: Spread, second: Spread, freedom: int, a: Means, b: Means) -> list[Ratio]:
    low, high = overlap(a, b)
    at = np.unique([low, (low + high) / 2, high])
    value, error = _log_ratio(first, second, at)
    half = quantile(LEVEL, freedom) * error
    with np.errstate(over="ignore"):
        return [
            Ratio(*(float(np.exp(v)) for v in (x, m, m - h, m + h))) for x, m, h in zip(at, value, half, strict=True)
        ]


def _crossing(
    first: Spread, second: Spread, freedom: int, a: Means, b: Means, beyond: float = 3.0
) -> tuple[float, float, float] | None:
    """Where the laws meet, up to three decades outside the points; the interval is where they may meet (Fieller)."""
    ends = np.concatenate([a.x[:, 0], b.x[:, 0]])
    reach = beyond * np.log(10.0)
    at = np.linspace(ends.min() - reach, ends.max() + reach, 4001)
    value, error = _log_ratio(first, second, at)
    changes = np.flatnonzero(np.sign(value[1:]) != np.sign(value[:-1]))
    if len(changes) == 0:
        return None
    centre = float(np.mean(ends))
    k = int(changes[np.argmin(np.abs(at[changes] - centre))])
    open_to = np.abs(value) <= quantile(LEVEL, freedom) * error
    low, high = k, k + 1
    while low > 0 and open_to[low - 1]:
        low -= 1
    while high < len(at) - 1 and open_to[high + 1]:
        high += 1
    share = value[k] / (value[k] - value[k + 1])
    return (
        float(np.exp(at[k] + share * (at[k + 1] - at[k]))),
        float(np.exp(at[low])) if low > 0 else 0.0,
        float(np.exp(at[high])) if high < len(at) - 1 else float("inf"),
    )
