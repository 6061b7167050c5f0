"""Result of a fit: the law with its parameters, intervals and verdict, and the points that it was fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np

from matscale.core.files import finite
from matscale.core.scaling.bootstrap import Draws
from matscale.core.scaling.held_out import HeldOut
from matscale.core.scaling.intervals import LEVEL, Spread
from matscale.core.scaling.law import Array, Frame, Law
from matscale.core.scaling.pooled.offsets import Offset
from matscale.core.scaling.select import Candidate
from matscale.core.scaling.tables.from_runs import ERRORS
from matscale.core.scaling.tables.table import Excluded, Table
from matscale.core.scaling.text import with_interval
from matscale.core.scaling.verdict import INCOMPLETE, LAWS, NO_LEARNING, NOT_IDENTIFIABLE, REFUSED, REJECTED, Reason

EXACT = 1e-6
"""Largest residual of ln L in a table that a formula produced, rather than a measurement."""
STILL = {
    REJECTED: "within the range of the points, allowing for the misfit of the law",
    INCOMPLETE: "if the law holds, which these runs cannot test",
    NOT_IDENTIFIABLE: "the exponent is not known better than",
}
"""Condition under which the widened intervals of a refused law hold, by the verdict on the law."""


@dataclass(frozen=True)
class Fit:
    """Result of a fit: the law of one architecture, or of several architectures that are pooled.

    `plain()` returns the values that `--json` prints.
    """

    law: Law
    axes: tuple[str, ...]
    """Variables of the law: `("n",)`, `("n", "d")`."""
    points: str
    """Kind of points that were fitted: `size means`, `runs`, `frontier`, `isoflop`, `group means`."""
    architecture: str
    target: str
    theta: Array
    """Parameters [p] in centred logarithms."""
    frame: Frame
    parameters: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    verdict: str
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]
    """Remarks that do not affect the verdict."""
    x: Array
    """ln of the variables [k, axes] of the points"""
    y: Array
    """ln of the loss [k]; for isoFLOP sets, ln of the best model size"""
    spread: Spread | Draws
    held_out: tuple[HeldOut, ...]
    table: Table
    """The runs behind the points"""
    fixed: str = ""
    """Value at which the other variable is held, such as `d = 301,300`."""
    candidates: tuple[Candidate, ...] = ()
    level: float = LEVEL
    groups: tuple[Offset, ...] = ()
    """Offset of each group from a pooled law, the lowest first; empty for a law of one architecture"""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Method of the fit, for the checklist: objective, number of starts, bootstrap samples."""

    @property
    def name(self) -> str:
        """Name of the law with its variables: `floor in d`, `nd`."""
        return self.law.name if len(self.law.axes) > 1 else f"{self.law.name} in {self.axes[0]}"

    @property
    def is_law(self) -> bool:
        return self.verdict in LAWS

    @property
    def verdict_with_reasons(self) -> str:
        """Verdict on the architecture with all reasons: `b is rejected (e: the points bend away ...)`."""
        return f"{self.architecture} is {self.verdict} ({'; '.join(map(str, self.reasons))})"

    @property
    def shows_floor(self) -> bool:
        """Whether the law has a floor whose interval excludes 0, from runs that can show one."""
        floor = self.law.floor
        return floor is not None and self.verdict not in (NO_LEARNING, INCOMPLETE) and self.intervals[floor][0] > 0

    @property
    def widening(self) -> float:
        """Factor by which intervals must grow to cover the misfit; 1 if the reasons against the law show no misfit."""
        return max((reason.widening for reason in self.reasons), default=1.0)

    @property
    def allowing_for_misfit(self) -> Fit:
        """Copy with all uncertainties multiplied by `widening`, for what can be said about a law despite a refusal."""
        k = self.widening
        if k == 1.0:
            return self
        intervals = {
            name: _stretched(self.parameters[name], ends, k, in_logs=name in self.law.logs)
            for name, ends in self.intervals.items()
        }
        return replace(self, spread=self.spread.stretched(k), intervals=intervals)

    @property
    def still(self) -> str:
        """Clause with the exponents of a refused law and their widened intervals; empty if the law is not refused."""
        if self.verdict not in REFUSED:
            return ""
        wide = self.allowing_for_misfit
        told = ", ".join(f"{name} {wide.told(name)}" for name in self.law.exponents)
        return f"{STILL[self.verdict]}: {told}"

    @property
    def quantity(self) -> str:
        """Name of the predicted quantity: `loss(n, d)`, or `N_opt(C)` for the best model size of isoFLOP sets."""
        return "N_opt(C)" if self.points == "isoflop" else f"{self.target}({', '.join(self.axes)})"

    @property
    def formula(self) -> str:
        """Formula of the law as text."""
        return "N_opt = A C^-alpha" if self.points == "isoflop" else self.law.formula

    def exponent_of(self, axis: str) -> str:
        """Name of the exponent that belongs to the variable `axis`; empty if none does."""
        pairs = dict(zip(self.law.axes, self.law.exponents)) if len(self.axes) > 1 else {self.axes[0]: "alpha"}
        return pairs.get(axis, "")

    def told(self, name: str, factor: float = 1.0) -> str:
        """Text of the parameter `name` with its interval, rounded to the digits that the interval supports."""
        value, (low, high) = self.parameters[name], self.intervals[name]
        if low == high and float(np.abs(self.residuals).max()) > EXACT:
            return f"{value * factor + 0.0:.6g} (at the bound of the search; no interval)"
        return with_interval(value * factor, low * factor, high * factor)

    @property
    def range(self) -> dict[str, tuple[float, float]]:
        """Smallest and largest value among the points, by axis."""
        return {
            axis: (float(np.exp(self.x[:, j].min())), float(np.exp(self.x[:, j].max())))
            for j, axis in enumerate(self.axes)
        }

    @property
    def n_sizes(self) -> int:
        """Number of distinct values of the first variable among the points."""
        return 1 + int((np.diff(np.sort(self.x[:, 0])) > 0.01).sum())

    @property
    def n_seeds(self) -> int:
        """Number of distinct seeds; 1 if the table has no seeds."""
        return max(len(set(self.table.words["seed"].tolist()) - {""}), 1)

    @property
    def excluded(self) -> tuple[Excluded, ...]:
        return self.table.excluded

    @property
    def residuals(self) -> Array:
        """Residuals of the points [k]: ln of the measured loss minus ln of the loss by the law."""
        return np.asarray(self.y - self.law.value(self.theta, self.x - self.frame.x) - self.frame.y)

    @property
    def baselines(self) -> dict[str, float]:
        """Error of each baseline in the fitted quantity, by the name of the baseline."""
        return bars(self.table, self.target)

    @overload
    def predict(  # type: ignore[overload-overlap]
        self, at: float | Mapping[str, float], level: float | None = None, new: bool = True
    ) -> tuple[float, float, float]: ...

    @overload
    def predict(
        self, at: Array | Sequence[float] | Mapping[str, Array | float], level: float | None = None, new: bool = True
    ) -> tuple[Array, Array, Array]: ...

    def predict(self, at: Any, level: float | None = None, new: bool = True) -> tuple[Any, Any, Any]:
        """Predict the loss and its interval, (loss, low, high), at values of the variable.

        For several variables, pass a dictionary {axis: values}. Numbers give numbers, arrays give arrays. (low, high)
        is the prediction interval for a new size or, if `new` is false, the confidence interval of the law.
        """
        columns = [at[axis] for axis in self.axes] if isinstance(at, Mapping) else [at]
        values = np.broadcast_arrays(*(np.asarray(column, float) for column in columns))
        logx = np.log(np.stack([np.ravel(value) for value in values], axis=-1))
        low, high = self.spread.band(logx, self.level if level is None else level, new)
        centre = self.law.value(self.theta, logx - self.frame.x) + self.frame.y
        with np.errstate(over="ignore"):
            found = [np.exp(ends).reshape(values[0].shape) for ends in (centre, low, high)]
        loss, lowest, highest = (float(one) if one.ndim == 0 else one for one in found)
        return loss, lowest, highest

    def plain(self) -> dict[str, Any]:
        """Values for JSON, with stable keys; numbers that are not finite become None."""
        values = {
            "law": self.law.name,
            "architecture": self.architecture,
            "axes": list(self.axes),
            "target": self.target,
            "quantity": self.quantity,
            "formula": self.formula,
            "points": self.points,
            "fixed": self.fixed or None,
            "parameters": dict(self.parameters),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "level": self.level,
            "verdict": self.verdict,
            "reasons": [str(reason) for reason in self.reasons],
            "widening": self.widening,
            "intervals_with_misfit": {name: list(ends) for name, ends in self.allowing_for_misfit.intervals.items()},
            "still": self.still or None,
            "notes": list(self.notes),
            "range": {axis: list(ends) for axis, ends in self.range.items()},
            "n_sizes": self.n_sizes,
            "n_seeds": self.n_seeds,
            "n_runs": len(self.table),
            "excluded": [one.plain() for one in self.excluded],
            "held_out": [one.plain() for one in self.held_out],
            "candidates": [one.plain() for one in self.candidates],
            "groups": [one.plain() for one in self.groups],
            "columns": dict(self.table.names),
            "reading": list(self.table.notes),
            "baselines": self.baselines,
        }
        plain: dict[str, Any] = finite(values)
        return plain


def _stretched(value: float, ends: tuple[float, float], factor: float, in_logs: bool) -> tuple[float, float]:
    """Widen the interval `ends` of a value by `factor`, in logarithms if `in_logs` and the value is positive."""
    if in_logs and value > 0:
        with np.errstate(over="ignore", divide="ignore"):
            low, high = (float(value * np.exp(factor * np.log(end / value))) for end in ends)
        return low, high
    low, high = (float(value + (end - value) * factor) for end in ends)
    return low, high


def bars(table: Table, target: str) -> dict[str, float]:
    """Error of each measured baseline in the target, by the name of the baseline.

    Baselines store their error in the compared loss under the key `loss`, although a table may use another name for
    that loss. Errors in other targets are stored under the name of the target.
    """
    key = table.names.get("loss", target)
    same = "loss" if target == "loss" else ERRORS.get(target, target)
    values = {name: errors.get(key, errors.get(same)) for name, errors in table.baselines.items()}
    return {name: float(v) for name, v in values.items() if v is not None and np.isfinite(v)}


def lowest_bar(table: Table, target: str) -> tuple[str, float] | None:
    """Name and error of the best baseline, which a model has to beat; None if no baseline is known."""
    known = bars(table, target)
    return min(known.items(), key=lambda item: item[1]) if known else None
