"""Do two architectures scale differently? Analysis of covariance on size means.

Each architecture has its own law; the scatter of sizes about the laws is pooled; the difference of the exponents over
its standard error is compared with Student's t on Σ (sizes - parameters) degrees of freedom. For powers this is the
test of the interaction slope × architecture. A bootstrap over seeds is not used: when sizes scatter more than seeds do,
which is the rule, it finds differences where there are none in 9 to 77 % of the cases; this test in 5 % (docs/laws.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from matscale.core.errors import ConfigError, DataError, did_you_mean
from matscale.core.files import finite
from matscale.core.scaling.intervals import LEVEL, Spread, quantile, spread
from matscale.core.scaling.law import Array, Law
from matscale.core.scaling.means import BESIDE, Means, size_means, slice_of
from matscale.core.scaling.one_variable import fit_means
from matscale.core.scaling.power_of_test import Settling, power, settling, smallest_difference
from matscale.core.scaling.result import Fit, lowest_bar
from matscale.core.scaling.solve import solve
from matscale.core.scaling.table import Table, groups
from matscale.core.scaling.verdict import learning

DIFFERENT, NOT_SHOWN, NO_TEST = "exponents differ", "no difference shown", "not comparable"
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
    """Probability of such a difference between equal exponents"""
    p_adjusted: float
    """After Holm's correction over all pairs"""
    verdict: str
    reason: str
    ratios: tuple[Ratio, ...]
    crossing: tuple[float, float, float] | None
    """(value, low, high) of the variable where the laws meet; infinite ends: not bounded by these points"""
    power: float
    """Probability to see a difference of `WORTH_SEEING` with such points"""
    smallest: float
    """Difference that is seen with 80 %"""
    settling: Settling


@dataclass(frozen=True)
class Rank:
    """One architecture at the place where all are compared."""

    architecture: str
    loss: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """All architectures over one variable."""

    axis: str
    law: Law
    fixed: str
    fits: dict[str, Fit]
    pairs: tuple[Pair, ...]
    at: float
    """Where losses are ranked: the largest value that all reach"""
    ranking: tuple[Rank, ...]

    def plain(self) -> dict[str, Any]:
        values = {
            "axis": self.axis,
            "law": self.law.name,
            "fixed": self.fixed or None,
            "fits": {name: fit.plain() for name, fit in self.fits.items()},
            "pairs": [_plain_pair(pair) for pair in self.pairs],
            "ranking": [{**vars(rank), "at": self.at} for rank in self.ranking],
        }
        plain: dict[str, Any] = finite(values)
        return plain


def _plain_pair(pair: Pair) -> dict[str, Any]:
    plain = {**vars(pair), "interval": list(pair.interval), "ratios": [vars(r) for r in pair.ratios]}
    return {**plain, "crossing": list(pair.crossing) if pair.crossing else None, "settling": vars(pair.settling)}


def compare(
    table: Table,
    architectures: Sequence[str],
    laws: Sequence[Law],
    *,
    axis: str | None = None,
    target: str = "loss",
    at: float | None = None,
) -> Comparison:
    """`architectures` (all of the table if empty) over `axis`: compute where every run has it, else parameters.

    `laws` are the forms in one variable, the plain power first. Raises ConfigError for a name that is not there,
    DataError if an architecture has fewer than three sizes.
    """
    names = list(dict.fromkeys(architectures)) or table.architectures
    for name in names:
        if name not in table.architectures:
            raise ConfigError(f"There are no runs of {name!r}. {did_you_mean(name, table.architectures)}")
    if len(names) < 2:
        raise ConfigError(f"A comparison needs two architectures; there is {', '.join(names) or 'none'}.")
    axis = axis or ("c" if table.take(np.isin(table.words["arch"], names)).has("c") else "n")
    parts, fixed = _slices({name: table.of_architecture(name).ends() for name in names}, axis, at)
    means, no_learning = {}, {}
    for name, part in parts.items():
        bar = lowest_bar(part, target)
        raw = size_means(part, axis, fixed)
        no_learning[name] = learning(np.exp(raw.y), bar)
        if bar is not None and not any(r.is_no_learning for r in no_learning[name]):
            part = part.keep(part["loss"] < bar[1], f"does not beat the baseline {bar[0]} ({bar[1]:.4g})")
        means[name] = size_means(part, axis, fixed)
    law = _common_form(means, laws, target)
    fits = {name: fit_means(means[name], [law], target, no_learning[name]) for name in names}
    pairs = _adjusted([_pair(a, b, means, fits, law) for a, b in combinations(names, 2)])
    where, ranking = _ranking(means, fits)
    return Comparison(axis, law, fixed, fits, tuple(pairs), where, tuple(ranking))


def _slices(parts: dict[str, Table], axis: str, at: float | None) -> tuple[dict[str, Table], str]:
    """The runs of each architecture at one common value of what has to be fixed (data, for n and c)."""
    other = "d" if axis == "c" else BESIDE.get(axis)
    if axis == "d" or other is None or not all(part.has(other) for part in parts.values()):
        sliced = {name: slice_of(part, axis, at) for name, part in parts.items()}
        notes = {name: note for name, (_, note) in sliced.items() if note}
        fixed = "; ".join(f"{name} at {note}" for name, note in notes.items())
        return {name: part for name, (part, _) in sliced.items()}, fixed
    values = sorted({float(v) for part in parts.values() for v in part[other]})
    levels = groups(np.array(values))
    centres = [float(np.exp(np.log(np.array(values)[levels == k]).mean())) for k in range(int(levels.max()) + 1)]
    key = "n" if axis == "c" and all(p.has("n") for p in parts.values()) else axis

    def sizes(value: float) -> int:
        return min(len(set(groups_at(part, other, value, key))) for part in parts.values())

    chosen = min(centres, key=lambda v: abs(np.log(v / at))) if at else max(centres, key=lambda v: (sizes(v), v))
    if sizes(chosen) == 0:
        known = ", ".join(f"{v:,.0f}" for v in centres)
        raise DataError(f"The architectures share no {other} ({known}): train each on the same data.")
    fixed = f"{other} = {chosen:,.0f}" if len(centres) > 1 else ""
    kept = {
        name: part.keep(
            _near(part[other], chosen), f"its {other} is another: all are compared at {other} = {chosen:,.0f}"
        )
        for name, part in parts.items()
    }
    return kept, fixed


def groups_at(part: Table, other: str, value: float, key: str) -> list[int]:
    """Sizes of the runs near `value` of `other`."""
    near = part[key][_near(part[other], value)]
    return groups(near).tolist() if len(near) else []


def _near(values: Array, value: float) -> np.ndarray:
    return np.asarray(np.abs(np.log(values / value)) < 0.02)


def _common_form(means: dict[str, Means], laws: Sequence[Law], target: str) -> Law:
    """A floor only where every architecture shows one: a saturating and a plain exponent are not comparable."""
    plain = laws[0]
    chosen = {
        fit_means(m, [law for law in laws if law.verdict != "broken law"], target).law.name for m in means.values()
    }
    return next((law for law in laws if law.name in chosen), plain) if len(chosen) == 1 else plain


def _pair(a: str, b: str, means: dict[str, Means], fits: dict[str, Fit], law: Law) -> Pair:
    first, second, freedom = pooled(means[a], means[b], law)
    name = law.exponents[0]
    j = law.parameters.index(name)
    difference = float(first.theta[j] - second.theta[j])
    error = float(np.sqrt(first.covariance[j, j] + second.covariance[j, j]))
    p = 2 * float(stats.t.sf(abs(difference) / error, freedom)) if error > 0 and freedom > 0 else float("nan")
    half = quantile(LEVEL, freedom) * error
    doubts = [f"{x}: {'; '.join(str(r) for r in fits[x].reasons)}" for x in (a, b) if not fits[x].is_law]
    hopeless = any(reason.trigger in ("a", "b") for x in (a, b) for reason in fits[x].reasons)
    return Pair(
        first=a,
        second=b,
        difference=difference,
        interval=(difference - half, difference + half),
        p=p,
        p_adjusted=p,
        verdict=NO_TEST if hopeless or freedom <= 0 else NOT_SHOWN,
        reason=f"no clean law: {'. '.join(doubts)}" if doubts else "",
        ratios=tuple(_ratios(first, second, freedom, means[a], means[b])),
        crossing=_crossing(first, second, freedom, means[a], means[b]),
        power=power(WORTH_SEEING, error, freedom),
        smallest=smallest_difference(error, freedom),
        settling=settling(difference, means[a], means[b], first.scatter, freedom),
    )


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


def _adjusted(pairs: list[Pair]) -> list[Pair]:
    """Holm's step-down correction, and the verdicts that follow."""
    order = sorted(range(len(pairs)), key=lambda k: pairs[k].p if np.isfinite(pairs[k].p) else 1.0)
    adjusted, running = [1.0] * len(pairs), 0.0
    for rank, k in enumerate(order):
        p = pairs[k].p if np.isfinite(pairs[k].p) else 1.0
        running = max(running, min(1.0, p * (len(pairs) - rank)))
        adjusted[k] = running
    return [
        replace(
            pair,
            p_adjusted=p,
            verdict=DIFFERENT if pair.verdict == NOT_SHOWN and p < 1 - LEVEL else pair.verdict,
        )
        for pair, p in zip(pairs, adjusted, strict=True)
    ]


def _ranking(means: dict[str, Means], fits: dict[str, Fit]) -> tuple[float, list[Rank]]:
    at = float(np.exp(overlap(*means.values())[1]))
    ranks = []
    for name, fit in fits.items():
        loss, low, high = (float(v[0]) for v in fit.predict(at, new=False))
        ranks.append(Rank(name, loss, low, high))
    return at, sorted(ranks, key=lambda rank: rank.loss)
