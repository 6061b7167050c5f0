"""Compare two architectures: whether their exponents differ, the ratio of their losses, and where their laws cross."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from matscale.core.scaling.comparison.cheaper import Multiplier
from matscale.core.scaling.comparison.power_of_test import Settling, power, settling, smallest_difference
from matscale.core.scaling.intervals import LEVEL, Spread, quantile, spread, with_seed_slopes
from matscale.core.scaling.law import Array, Law
from matscale.core.scaling.means import Means
from matscale.core.scaling.result import Fit
from matscale.core.scaling.solve import solve
from matscale.core.scaling.text import size

DIFFERENT, NOT_SHOWN, NO_TEST = "exponents differ", "no difference shown", "not comparable"
LOCAL = "local slopes differ"
UNLIKE, UNDECIDED = "different", "undecided"
"""Verdicts of the equivalence test, beside `equal within` a margin."""
DOUBT = "the exponents cannot be compared: "
"""Beginning of the reason why a pair is not comparable."""
SEEDS = 0.05
"""p-value below which differences between the slopes of seeds enter the test."""
FIRST_LAWS = "each architecture needs a law first: the reasons against it are listed above"
WORTH_SEEING = 0.04
"""Difference of exponents for which the power of the test is reported."""


@dataclass(frozen=True)
class Ratio:
    """Ratio of the losses of two architectures at one value of the variable, with its interval."""

    at: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Pair:
    """Two architectures and the test whether their exponents differ."""

    first: str
    second: str
    difference: float
    """Exponent of the first minus that of the second; NaN if the slopes are local and no joint laws take their place"""
    interval: tuple[float, float]
    p: float
    """p-value of the difference; NaN if the exponents cannot be compared"""
    p_adjusted: float
    """`p` after Holm's correction over all pairs"""
    verdict: str
    reason: str
    """Reason why the exponents cannot be compared; empty if they can"""
    ratios: tuple[Ratio, ...]
    crossing: tuple[float, float, float] | None
    """(value, low, high) of the variable where the laws cross; None if they do not. An unlimited end is 0 or inf"""
    power: float
    """Probability that the test finds a true difference of `WORTH_SEEING` with these points"""
    smallest: float
    """Smallest true difference that the test finds with a probability of 80 %"""
    settling: Settling
    basis: str = ""
    """Which exponents were compared, such as `alpha of the joint laws nd`; empty for those of `Comparison.fits`"""
    note: str = ""
    """Remark, if slopes over a range were compared rather than exponents"""
    standard_error: float = float("nan")
    """Standard error of `difference`"""
    freedom: float = float("nan")
    """Degrees of freedom of `standard_error`"""
    margin: float | None = None
    """Margin of the equivalence test; None if this test was not asked for"""
    p_equal: float = float("nan")
    """p-value of the equivalence test"""
    p_equal_adjusted: float = float("nan")
    """`p_equal` after Holm's correction over all pairs"""
    multipliers: tuple[Multiplier, ...] = ()
    """How many times as much of each resource the first architecture needs as the second, for the same loss"""

    @property
    def is_open(self) -> bool:
        """Whether the test left something to settle: neither a difference nor an equality was found."""
        return self.verdict in (NOT_SHOWN, NO_TEST, UNDECIDED)

    def crossing_text(self, axis: str) -> str:
        """Clause that says where the laws cross along `axis`."""
        if self.crossing is None:
            return "the laws do not cross within three decades of the points"
        value, low, high = self.crossing
        ends = f"{size(low) if low > 0 else 'below all'} to {size(high) if high < float('inf') else 'above all'}"
        return f"the laws cross at {axis} = {size(value)} (95 %: {ends})"


def tested(a: str, b: str, means: Mapping[str, Means], fits: Mapping[str, Fit], law: Law) -> Pair:
    """Test whether the exponents of the architectures `a` and `b` differ.

    `p_adjusted` of the result equals `p`; it is corrected once all pairs have been tested.
    """
    first, second, freedom = welch(means[a], means[b], law)
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
        ratios=tuple(_ratios(first, second, means[a], means[b])),
        crossing=None if reason else _crossing(first, second, means[a], means[b]),
        power=float("nan") if reason else power(WORTH_SEEING, error, freedom),
        smallest=float("nan") if reason else smallest_difference(error, freedom),
        settling=Settling(None, None, FIRST_LAWS)
        if reason
        else settling(
            difference, means[a], means[b], (first.scatter, second.scatter), freedom, error, law.n_parameters
        ),
        note="" if reason else _local([fits[a], fits[b]]),
        standard_error=error,
        freedom=freedom,
    )


def _local(fits: Sequence[Fit]) -> str:
    """Note on a pair if an exponent of it is only a slope over a range; empty if both are exponents of laws."""
    slopes = " and ".join(fit.architecture for fit in fits if not fit.is_law and fit.law.floor is None)
    slices = [fit for fit in fits if not fit.is_law and fit.law.floor is not None]
    told = [f"slopes over these ranges: a floor cannot be excluded for {slopes}"] if slopes else []
    told += [f"laws of slices: {'; '.join(f'{fit.architecture} at {fit.fixed}' for fit in slices)}"] if slices else []
    return " and ".join(told)


def _hindrance(fits: Sequence[Fit], freedom: float) -> str:
    """Reason why the exponents cannot be compared, such as a refused fit; empty if they can."""
    doubts = [
        fit.verdict_with_reasons
        for fit in fits
        if not fit.is_law and {reason.trigger for reason in fit.reasons} != {"i"}
    ]
    if doubts:
        return DOUBT + ", and ".join(doubts)
    return "" if freedom > 0 else f"{DOUBT}there are no more sizes than parameters"


def welch(a: Means, b: Means, law: Law) -> tuple[Spread, Spread, float]:
    """Fit the law to both architectures, each with its own scatter: returns both uncertainties and degrees of freedom.

    The degrees of freedom are those of the difference of the exponents. Sources: Welch (Biometrika 34, 28, 1947) and
    Satterthwaite (Biometrics 2, 110, 1946). With a common scatter, equal exponents would be found different in up to 28
    % of the cases where one architecture has fewer sizes and more noise.
    """
    spreads = []
    for means in (a, b):
        weights = means.weights
        found = solve(law, means.x, means.y, weights=weights)
        around = spread(law, found.theta, found.frame, means.x, means.y, means.noise, weights)
        spreads.append(with_seed_slopes(around, means.seed_slopes, means.x) if means.seed_slopes.p < SEEDS else around)
    first, second = spreads
    j = law.parameters.index(law.exponents[0])
    freedom = satterthwaite(first.covariance[j, j], second.covariance[j, j], first.freedom, second.freedom)
    return first, second, float(freedom)


def satterthwaite(a: Array | float, b: Array | float, freedom_a: float, freedom_b: float) -> Array:
    """Degrees of freedom of the sum of two estimated variances; 0 if a variance has no degrees of freedom.

    If both variances have the same degrees of freedom, this is Satterthwaite's formula. If not, the result is moved
    towards the smaller of the two numbers, by up to a quarter of the distance, since few sizes may understate the
    scatter of the noisier architecture. Without this reduction, a test at 5 % with 4 against 10 degrees of freedom
    would reject equality in 7.3 % of cases.
    """
    a, b = np.asarray(a), np.asarray(b)
    if min(freedom_a, freedom_b) <= 0:
        return np.zeros(a.shape)
    total = np.maximum(a + b, 1e-300)
    freedom = 1 / np.maximum((a / total) ** 2 / freedom_a + (b / total) ** 2 / freedom_b, 1e-9)
    fewer, more = sorted((freedom_a, freedom_b))
    return np.asarray(freedom - 0.25 * (1 - fewer / more) * (freedom - fewer))


def _log_ratio(first: Spread, second: Spread, logx: Array) -> tuple[Array, Array]:
    """Logarithm of the ratio of two losses, ln(L1 / L2), at `logx` [m], and the half-width of its interval."""
    at = logx[:, None]
    values, variances = [], []
    for one in (first, second):
        gradient = one.law.derivatives(one.theta, at - one.frame.x)
        values.append(one.law.value(one.theta, at - one.frame.x) + one.frame.y)
        variances.append(np.einsum("kp,pq,kq->k", gradient, one.covariance, gradient))
    freedom = satterthwaite(variances[0], variances[1], first.freedom, second.freedom)
    quantiles = np.where(freedom > 0, stats.t.ppf(0.5 + LEVEL / 2, np.maximum(freedom, 1e-9)), np.inf)
    return values[0] - values[1], quantiles * np.sqrt(variances[0] + variances[1])


def overlap(*means: Means) -> tuple[float, float]:
    """Range (low, high) of ln x that all architectures cover; if there is none, both are the middle of the gap."""
    low, high = max(float(m.x.min()) for m in means), min(float(m.x.max()) for m in means)
    return (low, high) if low <= high else ((low + high) / 2, (low + high) / 2)


def _ratios(first: Spread, second: Spread, a: Means, b: Means) -> list[Ratio]:
    low, high = overlap(a, b)
    at = np.unique([low, (low + high) / 2, high])
    value, half = _log_ratio(first, second, at)
    with np.errstate(over="ignore"):
        return [
            Ratio(*(float(np.exp(v)) for v in (x, m, m - h, m + h))) for x, m, h in zip(at, value, half, strict=True)
        ]


def _crossing(
    first: Spread, second: Spread, a: Means, b: Means, beyond: float = 3.0
) -> tuple[float, float, float] | None:
    """Value of the variable where two laws cross, with Fieller's interval; None if they do not cross.

    A crossing counts up to three decades (`beyond`) outside the points.
    """
    ends = np.concatenate([a.x[:, 0], b.x[:, 0]])
    reach = beyond * np.log(10.0)
    at = np.linspace(ends.min() - reach, ends.max() + reach, 4001)
    value, half = _log_ratio(first, second, at)
    changes = np.flatnonzero(np.sign(value[1:]) != np.sign(value[:-1]))
    if len(changes) == 0:
        return None
    centre = float(np.mean(ends))
    k = int(changes[np.argmin(np.abs(at[changes] - centre))])
    open_to = np.abs(value) <= half
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
