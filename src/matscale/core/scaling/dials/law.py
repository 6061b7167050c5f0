"""Law of a hyperparameter: the best learning rate or batch size as a power of parameters N and data D, a N^b D^c.

Least squares in logarithms over the optima of sizes, all with the same weight, since optima scatter more between sizes
than each is uncertain. Intervals are Student's t. Two tests check the power law: terms in (ln N)², (ln D)² and
ln N ln D, and the prediction of the largest size from the smaller ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from matscale.core.errors import DataError
from matscale.core.scaling.dials.optima import Optimum
from matscale.core.scaling.intervals import LEVEL, quantile, wide_enough
from matscale.core.scaling.law import Array
from matscale.core.scaling.tables.table import groups
from matscale.core.scaling.text import percent, size, with_interval
from matscale.core.scaling.verdict import SIGNIFICANT, WORDS, Reason, too_few

LEARNING_RATE, BATCH = "learning rate", "batch"
AT_EDGE = 0.1
"""Largest share of optima at an edge of the values tried; with more, the design is incomplete."""


@dataclass(frozen=True)
class DialLaw:
    """Law a N^b D^c of one hyperparameter (`dial`), with a verdict like that of laws of the loss."""

    dial: str
    a: float
    exponents: Mapping[str, float]
    """Exponent of each axis (`n`, `d`); empty for a constant"""
    intervals: Mapping[str, tuple[float, float]]
    """95 % interval of the exponent of each axis; infinite if there are too few sizes"""
    chances: Mapping[str, float]
    """p-value of the exponent of each axis against 0 (no trend)"""
    verdict: str
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]
    optima: tuple[Optimum, ...]
    """Optima that the law was fitted to"""
    scatter: float
    """Standard deviation of ln of the optima about the law; NaN without a degree of freedom"""

    def value(self, sizes: Mapping[str, float]) -> float:
        """Value of the hyperparameter at sizes {axis: value}."""
        return math.exp(math.log(self.a) + sum(b * math.log(sizes[axis]) for axis, b in self.exponents.items()))

    @property
    def formula(self) -> str:
        """Formula of the law, such as `LR = 0.93 N^-0.66 D^0.28`."""
        powers = [f"{axis.upper()}^{exponent:.3g}" for axis, exponent in self.exponents.items()]
        return " ".join([f"{'LR' if self.dial == LEARNING_RATE else 'B'} = {self.a:.3g}", *powers])

    @property
    def told(self) -> list[str]:
        """Lines of text: the verdict first, then reasons, exponents and notes."""
        lines = [f"{self.formula}: {self.verdict.upper()}"]
        lines += [f"  because {reason}" for reason in self.reasons]
        for axis, exponent in self.exponents.items():
            low, high = self.intervals[axis]
            known = with_interval(exponent, low, high) if math.isfinite(low) else f"{exponent:.2g} (no interval)"
            lines.append(f"  exponent of {axis.upper()}  {known}")
        for axis in self.exponents:
            values = [getattr(one, axis) for one in self.optima]
            lines.append(f"  range: {axis} {size(min(values))} to {size(max(values))}")
        spread = "" if math.isnan(self.scatter) else f", scatter {100 * self.scatter:.2g} %"
        lines.append(f"  best values: {len(self.optima)}{spread}")
        return [*lines, *(f"  note: {note}" for note in self.notes)]


def dial_law(optima: Sequence[Optimum], dial: str, axes: Sequence[str]) -> DialLaw:
    """Fit the law of a hyperparameter (`dial`) in those of `axes` that vary.

    Optima at an edge of the values tried are left out if there are others. Raises DataError if no size has losses at
    several values of the hyperparameter.
    """
    there = [one for one in optima if not math.isnan(_of(one, dial))]
    if not there:
        raise DataError(f"There is no best {dial}: no size has losses at several values of it. Try three or more.")
    edges = [one for one in there if dial in one.at_edge]
    used = [one for one in there if dial not in one.at_edge] or there
    y = np.log([_of(one, dial) for one in used])
    logs = {axis: np.log([getattr(one, axis) for one in used]) for axis in axes}
    sizes = {axis: (int(groups(np.exp(x)).max()) + 1, float(np.ptp(x)) / math.log(10)) for axis, x in logs.items()}
    varying = [axis for axis in axes if sizes[axis][0] > 1]
    columns = _columns(logs, varying, len(used))
    while np.linalg.matrix_rank(columns, tol=1e-6) < columns.shape[1]:  # data in proportion to parameters
        varying = varying[:-1]
        columns = _columns(logs, varying, len(used))
    labels = groups(np.array([one.n for one in used]))
    line = _Line.of(columns, y, labels)
    reasons = _few({axis: sizes[axis] for axis in varying or axes[:1]})
    reasons += _bent(line, columns, varying, y, labels)
    reasons += _missed(columns, used, varying[0], y) if varying else []
    if len(edges) > AT_EDGE * len(there):
        listed = "; ".join(one.place for one in edges[:3])
        told = (
            f"{len(edges)} of {len(there)} best values lie at an edge of what was tried ({listed}): try values beyond"
        )
        reasons.append(Reason("h", told))
    exponents = {axis: float(line.theta[k + 1]) for k, axis in enumerate(varying)}
    intervals = {axis: line.interval(k + 1) for k, axis in enumerate(varying)}
    at_one = float(line.theta[0]) - sum(exponent * float(logs[axis].mean()) for axis, exponent in exponents.items())
    notes = [f"{axis} may have no effect (exponent 0)" for axis, (low, high) in intervals.items() if low <= 0 <= high]
    if edges and len(edges) < len(there):
        listed = "; ".join(one.place for one in edges[:3])
        notes.append(f"left out, since the best value lies at an edge of what was tried: {listed}")
    return DialLaw(
        dial=dial,
        a=math.exp(at_one),
        exponents=exponents,
        intervals=intervals,
        chances={axis: line.chance(k + 1) for k, axis in enumerate(varying)},
        verdict=_verdict(reasons),
        reasons=tuple(reasons),
        notes=tuple(notes),
        optima=tuple(used),
        scatter=line.error if line.freedom > 0 else math.nan,
    )


def batch_law(optima: Sequence[Optimum]) -> DialLaw:
    """Fit the law B(D) of the best batch size, or B(N, D) if the best batch at one D changes significantly with N."""
    alone = dial_law(optima, BATCH, ("d",))
    both = dial_law(optima, BATCH, ("d", "n"))
    if "n" not in both.exponents or both.chances["n"] >= SIGNIFICANT:
        return alone
    return replace(both, notes=(*both.notes, "the best batch moves with n too, at the same d"))


@dataclass(frozen=True)
class _Line:
    """Least squares of y over `columns`, with a common deviation for each size that widens the intervals.

    The variances within and between sizes are estimated from the squares of the residuals and from the squares of the
    sums of residuals over each size (Henderson 1953); degrees of freedom follow Satterthwaite.
    """

    theta: Array
    within: Array
    """Covariance of theta due to deviations within sizes"""
    between: Array
    """Covariance of theta due to the common deviations of sizes"""
    freedom: int
    n_sizes: int
    error: float
    """Standard deviation of an optimum of a new size about the law; 0 without a degree of freedom"""
    squares: float

    @classmethod
    def of(cls, columns: Array, y: Array, labels: NDArray[np.int64]) -> _Line:
        """Fit the line; `labels` [k] is the index of the size of each optimum."""
        theta: Array = np.linalg.lstsq(columns, y, rcond=1e-10)[0].astype(np.float64)
        left = y - columns @ theta
        freedom, squares = len(y) - columns.shape[1], float(left @ left)
        inverse: Array = np.linalg.pinv(columns.T @ columns).astype(np.float64)
        same = (labels[:, None] == labels[None, :]).astype(float)
        apart = np.eye(len(y)) - columns @ inverse @ columns.T
        common = apart @ same
        matrix = np.array([[freedom, np.trace(common)], [np.trace(common), np.trace(common @ common)]])
        within, between = (squares / freedom if freedom > 0 else 0.0), 0.0
        if freedom > 1 and np.linalg.cond(matrix) < 1e6:
            found = np.linalg.solve(matrix, [squares, left @ same @ left])
            if found[1] > 0:
                within, between = max(float(found[0]), 0.0), float(found[1])
        spread = inverse @ columns.T @ same @ columns @ inverse
        n_sizes = len(set(labels.tolist()))
        return cls(
            theta, within * inverse, between * spread, freedom, n_sizes, math.sqrt(within + between), squares
        )  # fmt: skip

    def _error(self, row: Array, new: bool = False) -> tuple[float, float]:
        """Standard error of `row` @ theta and its degrees of freedom; with `new`, those of a new optimum at `row`."""
        within, between = float(row @ self.within @ row), float(row @ self.between @ row)
        within += self.error**2 if new else 0.0
        total, spare = within + between, max(self.n_sizes - self.within.shape[0], 1)
        if self.freedom < 1 or total <= 0:
            return 0.0, float(self.freedom)
        return math.sqrt(total), total**2 / (within**2 / self.freedom + between**2 / spare)

    def interval(self, j: int) -> tuple[float, float]:
        error, freedom = self._error(np.eye(len(self.theta))[j])
        half = quantile(LEVEL, freedom) * error if self.freedom > 0 else math.inf
        return float(self.theta[j] - half), float(self.theta[j] + half)

    def chance(self, j: int) -> float:
        """p-value of coefficient j against 0."""
        error, freedom = self._error(np.eye(len(self.theta))[j])
        if self.freedom < 1:
            return 1.0
        return float(2 * stats.t.sf(abs(self.theta[j]) / error, freedom)) if error > 0 else 0.0

    def half_width(self, row: Array) -> float:
        """Half-width of the 95 % interval of a new optimum at `row`."""
        error, freedom = self._error(row, new=True)
        return quantile(LEVEL, freedom) * error


def _of(one: Optimum, dial: str) -> float:
    return one.lr if dial == LEARNING_RATE else one.batch


def _columns(logs: Mapping[str, Array], axes: Sequence[str], count: int) -> Array:
    """Columns of the regression: 1, and ln of each axis minus its mean [count, 1 + axes]."""
    return np.column_stack([np.ones(count), *(logs[axis] - logs[axis].mean() for axis in axes)])


def _few(sizes: Mapping[str, tuple[int, float]]) -> list[Reason]:
    """Reasons of trigger b (too few sizes, too small a range), as for laws of the loss.

    `sizes` has the number of sizes and their range in decades for each axis.
    """
    return [reason for axis, (n, decades) in sizes.items() for reason in too_few(axis, n, decades)[:1]]


def _bent(line: _Line, columns: Array, axes: Sequence[str], y: Array, sizes: NDArray[np.int64]) -> list[Reason]:
    """Reason of trigger e if a term of second order is significant at 1 %, corrected for the number of terms."""
    pairs = list(combinations_with_replacement(range(len(axes)), 2))
    found = []
    for i, j in pairs:
        product = columns[:, 1 + i] * columns[:, 1 + j]
        wider = np.column_stack([columns, product - product.mean()])
        if line.freedom < 2 or np.linalg.matrix_rank(wider) < wider.shape[1]:
            continue
        more = _Line.of(wider, y, sizes)
        p = min(1.0, more.chance(-1) * len(pairs))
        if p < SIGNIFICANT and more.squares < line.squares * (1 - 1e-9):
            change = abs(float(more.theta[-1])) * float(np.ptp(columns[:, 1 + i])) * (2 if i == j else 1)
            what = f"bends in ln {axes[i]}" if i == j else f"has a slope in ln {axes[i]} that changes with {axes[j]}"
            found.append((p, f"ln of the best value {what} (p = {p:.1g}): its exponent changes by {change:.2f}"))
    return [Reason("e", min(found)[1])] if found else []


def _missed(columns: Array, used: Sequence[Optimum], axis: str, y: Array) -> list[Reason]:
    """Reason of trigger f if the largest size is not predicted by the smaller ones.

    If that size has several optima, the one with the widest prediction interval is tested.
    """
    labels = groups(np.array([getattr(one, axis) for one in used]))
    kept = labels < labels.max()
    sizes = groups(np.array([one.n for one in used]))
    line = _Line.of(columns[kept], y[kept], sizes[kept])
    if line.freedom < 2 or np.linalg.matrix_rank(columns[kept]) < columns.shape[1]:
        return []
    out = np.flatnonzero(~kept)
    last = int(out[np.argmax([line.half_width(columns[k]) for k in out])])
    off, half = float(columns[last] @ line.theta - y[last]), line.half_width(columns[last])
    if abs(off) <= half:
        return []
    text = f"at {used[last].place} the smaller sizes predict {percent(math.expm1(off))}, outside their 95 % interval"
    return [Reason("f", text, widening=wide_enough(off, half))]


def _verdict(reasons: Sequence[Reason]) -> str:
    fired = {reason.trigger for reason in reasons}
    return next((word for trigger, word in WORDS.items() if trigger in fired), "law")
