"""Law of a hyperparameter: the best learning rate or batch size as a power of parameters N and data D, a N^b D^c.

The law is fitted by least squares in logarithms to the best values of several sizes. All have the same weight, since
best values scatter more between sizes than each is uncertain. Intervals are Student's t. Two tests check the power law:
terms in (ln N)², (ln D)² and ln N ln D, and a prediction of the largest size from the smaller ones.
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
"""Largest share of best values that may be an end of the values tried; if more are, the design is incomplete."""


@dataclass(frozen=True)
class DialLaw:
    """Law a N^b D^c of one hyperparameter (`dial`), with a verdict and reasons as for a law of the loss."""

    dial: str
    a: float
    exponents: Mapping[str, float]
    """Exponent of each axis (`n`, `d`); empty if the best value does not depend on size"""
    intervals: Mapping[str, tuple[float, float]]
    """95 % interval of the exponent of each axis; infinite if there are too few sizes"""
    chances: Mapping[str, float]
    """p-value of the exponent of each axis, for the hypothesis that it is 0"""
    verdict: str
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]
    optima: tuple[Optimum, ...]
    """Best values of the sizes that the law was fitted to"""
    scatter: float
    """Standard deviation of ln of the best values about the law; NaN if there are no degrees of freedom"""

    def value(self, sizes: Mapping[str, float]) -> float:
        """Best value of the hyperparameter that the law gives for a size {axis: value}."""
        return math.exp(math.log(self.a) + sum(b * math.log(sizes[axis]) for axis, b in self.exponents.items()))

    @property
    def formula(self) -> str:
        """Formula of the law, such as `LR = 0.93 N^-0.66 D^0.28`."""
        powers = [f"{axis.upper()}^{exponent:.3g}" for axis, exponent in self.exponents.items()]
        return " ".join([f"{'LR' if self.dial == LEARNING_RATE else 'B'} = {self.a:.3g}", *powers])

    @property
    def told(self) -> list[str]:
        """Description in lines: the verdict first, then reasons, exponents and notes."""
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
    """Fit the law of one hyperparameter (`dial`) to its best values: a power of each variable in `axes` that varies.

    Best values at an end of the values tried are left out, unless all are. Raises DataError if no size has losses
    at several values of the hyperparameter.
    """
    there = [one for one in optima if not math.isnan(_of(one, dial))]
    if not there:
        raise DataError(
            f"The best {dial} is unknown: no size has losses at several values of it. Try three values or more."
        )
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
    """Fit the law of the best batch size in D, or in N and D if the best value at one D changes clearly with N."""
    alone = dial_law(optima, BATCH, ("d",))
    both = dial_law(optima, BATCH, ("d", "n"))
    if "n" not in both.exponents or both.chances["n"] >= SIGNIFICANT:
        return alone
    return replace(both, notes=(*both.notes, "the best batch changes with n, too, at the same d"))


@dataclass(frozen=True)
class _Line:
    """Least-squares fit of y by `columns`, whose intervals allow for a deviation that all points of a size share.

    The variances within and between sizes are estimated from the squares of the residuals and from the squares of the
    sums of residuals over each size (Henderson 1953); degrees of freedom follow Satterthwaite.
    """

    theta: Array
    within: Array
    """Covariance of theta due to deviations within sizes"""
    between: Array
    """Covariance of theta due to the deviations that all points of a size share"""
    freedom: int
    n_sizes: int
    error: float
    """Standard deviation about the law of the best value for a new size; 0 if there are no degrees of freedom"""
    squares: float

    @classmethod
    def of(cls, columns: Array, y: Array, labels: NDArray[np.int64]) -> _Line:
        """Fit y by `columns` with least squares; `labels` [k] is the index of the size of each point."""
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
        """Standard error of the fitted value at `row`, or of a new point there if `new`; and its degrees of freedom."""
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
        """p-value of the hypothesis that coefficient number `j` is 0."""
        error, freedom = self._error(np.eye(len(self.theta))[j])
        if self.freedom < 1:
            return 1.0
        return float(2 * stats.t.sf(abs(self.theta[j]) / error, freedom)) if error > 0 else 0.0

    def half_width(self, row: Array) -> float:
        """Half-width of the 95 % interval of a new point at `row`."""
        error, freedom = self._error(row, new=True)
        return quantile(LEVEL, freedom) * error


def _of(one: Optimum, dial: str) -> float:
    return one.lr if dial == LEARNING_RATE else one.batch


def _columns(logs: Mapping[str, Array], axes: Sequence[str], count: int) -> Array:
    """Design matrix [count, 1 + axes]: a column of 1, and ln of each axis minus its mean."""
    return np.column_stack([np.ones(count), *(logs[axis] - logs[axis].mean() for axis in axes)])


def _few(sizes: Mapping[str, tuple[int, float]]) -> list[Reason]:
    """Reasons against the law if there are too few sizes or their range is too small (trigger b of the verdict).

    `sizes` has (number of sizes, range in decades) for each axis.
    """
    return [reason for axis, (n, decades) in sizes.items() for reason in too_few(axis, n, decades)[:1]]


def _bent(line: _Line, columns: Array, axes: Sequence[str], y: Array, sizes: NDArray[np.int64]) -> list[Reason]:
    """Reason against the law if a second-order term in ln N or ln D is significant at 1 % (trigger e of the verdict).

    The p-value is corrected for the number of such terms.
    """
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
    """Reason against the law if the smaller sizes do not predict the largest one (trigger f of the verdict).

    If the largest size has several best values, the one with the widest prediction interval is tested.
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
