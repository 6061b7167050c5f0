"""Points of a law in one variable: the mean ln loss of each size, over runs that share all other variables.

Runs of one size differ by their seed, sizes by more than that (widths are discrete, tuning is imperfect). So the means
over sizes are the independent observations; intervals from single runs are too narrow (docs/laws.md has the numbers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from matscale.core.errors import DataError
from matscale.core.scaling.law import Array
from matscale.core.scaling.noise import SeedSlopes, SizeNoise, outliers, seed_slopes, size_noise
from matscale.core.scaling.tables.labels import refuse_confounded
from matscale.core.scaling.tables.table import AXES, GROUP, Table, groups

BESIDE = {"n": "d", "d": "n", "u": "n", "s": "n"}
"""Variable that must have one value for all points of a law, by the variable of the law; `--at` chooses the value."""
HELD = {
    "n": ("d", "e", "u", "s"),
    "d": ("n", "e"),
    "c": ("e",),
    "u": ("n", "e"),
    "s": ("n", "e"),
    "e": ("n", "d", "u", "s"),
}
"""Variables that are held constant, in this order, when the loss is fitted against the variable that is the key."""
SEEDS = 0.1
"""Largest difference in ln c between seeds of one model; their structures differ in the number of atoms."""


@dataclass(frozen=True)
class Means:
    """Mean ln loss of each size: the points of a law in one variable, with the runs behind them."""

    axis: str
    x: Array
    """ln of the variable [k, 1], ascending"""
    y: Array
    """ln of the loss [k]"""
    counts: NDArray[np.int64]
    """Runs per size [k]"""
    table: Table
    size: NDArray[np.int64]
    """Index of the size of each row of the table"""
    fixed: str = ""
    """Fixed value of the other variable, such as `d = 301,300`."""
    falls: bool = True
    """Whether `y` should fall as the variable grows: a loss should, the best size at a compute budget should not."""
    with_outliers: Means | None = None
    """Means over all runs, outliers included; None if there are no outliers"""
    outlier_runs: tuple[tuple[str, float], ...] = ()
    """Each outlier run: (source, ln of the ratio of its loss to the mean of the other runs of its size)"""

    def __len__(self) -> int:
        return len(self.y)

    def first(self, k: int) -> Means:
        """Points of the `k` smallest sizes."""
        return self.pick(np.arange(k))

    def without(self, k: int) -> Means:
        return self.pick(np.delete(np.arange(len(self)), k))

    def pick(self, sizes: NDArray[np.int64]) -> Means:
        """Points of the sizes with these indices, with their runs."""
        chosen = replace(self, x=self.x[sizes], y=self.y[sizes], counts=self.counts[sizes])
        if not self.has_runs:
            return chosen
        rows = np.isin(self.size, sizes)
        return replace(chosen, table=self.table.take(rows), size=np.searchsorted(sizes, self.size[rows]))

    @cached_property
    def has_runs(self) -> bool:
        """Whether each point is a mean over runs of one size; false if points are the best model sizes of budgets."""
        found = np.bincount(self.size, minlength=len(self)) if len(self.size) else np.zeros(1)
        return len(self.size) == len(self.table) and len(found) == len(self) and bool(found.min() > 0)

    @cached_property
    def noise(self) -> SizeNoise:
        """Model of the variance of the means, estimated from the scatter of seeds."""
        if not self.has_runs or GROUP in self.table.words:
            return SizeNoise()  # models of one size in several groups do not differ by the seed alone
        return size_noise(self.x[:, 0], self.y, np.log(self.table["loss"]), self.size)

    @property
    def weights(self) -> Array | None:
        """Weights [k] of the sizes in a fit, with geometric mean 1; None if all are equal."""
        noise = self.noise
        return None if noise.is_even else 1 / noise.variance(self.x[:, 0], noise.seeds)

    @cached_property
    def seed_slopes(self) -> SeedSlopes:
        if not self.has_runs or "seed" not in self.table.words or GROUP in self.table.words:
            return SeedSlopes()
        logs = np.log(self.table["loss"])
        return seed_slopes(self.x[:, 0], logs, self.size, self.table.words["seed"], self.noise)

    @property
    def decades(self) -> float:
        return float((self.x.max() - self.x.min()) / np.log(10.0)) if len(self) else 0.0

    @property
    def seed_noise(self) -> float:
        """Standard deviation of ln loss between runs of one size; NaN if no size has two runs."""
        logs = np.log(self.table["loss"])
        spare = sum(int((self.size == k).sum()) - 1 for k in set(self.size.tolist()))
        if spare < 1:
            return float("nan")
        squares = sum(float(((v := logs[self.size == k]) - v.mean()) @ (v - v.mean())) for k in set(self.size.tolist()))
        return float(np.sqrt(squares / spare))


def size_means(table: Table, axis: str, fixed: str = "") -> Means:
    """Compute the mean ln loss of each size, over all rows of `table`; `axis` is the column of the size.

    Raises DataError if there are no rows or no column `axis`, or if a label changes with the size.
    """
    if len(table) == 0:
        raise DataError(f"There is nothing to fit: all rows were excluded.{_reasons(table)}")
    if not table.has(axis):
        known = [a for a in AXES if table.has(a)]
        raise DataError(
            f"The table has no column {axis} ({AXES[axis]}). It has {', '.join(known)}; map one with --map."
        )
    refuse_confounded(table)
    # Seeds of one model differ a little in compute, so rows are grouped by model, not by compute.
    key = "n" if axis == "c" and table.has("n") and _one(table, "d") and has_one_cost(table) else axis
    size = groups(table[key])
    k = int(size.max()) + 1
    counts = np.bincount(size, minlength=k)
    x = np.bincount(size, np.log(table[axis]), k) / counts
    y = np.bincount(size, np.log(table["loss"]), k) / counts
    order = np.argsort(x, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(k)
    means = Means(axis, x[order, None], y[order], counts[order], table, rank[size], fixed)
    return _without_outliers(means, table)


def _without_outliers(means: Means, table: Table) -> Means:
    """Leave out runs whose loss lies far from that of the other runs of their size; the result lists them."""
    if GROUP in table.words:
        return means
    logs, size = np.log(table["loss"]), means.size
    far = outliers(means.x[:, 0], logs, size)
    if not far:
        return means
    kept = np.ones(len(table), dtype=bool)
    kept[far] = False
    counts = np.bincount(size[kept])
    y = np.bincount(size[kept], logs[kept]) / counts
    part = table.keep(kept, "is far from the other seeds of its size")
    named = tuple((str(table.words["source"][k]), float(logs[k] - y[size[k]])) for k in far)
    return replace(means, y=y, counts=counts, table=part, size=size[kept], with_outliers=means, outlier_runs=named)


def has_one_cost(table: Table) -> bool:
    """Whether all runs of one n have the same compute, apart from the small differences between seeds."""
    return all(float(np.ptp(np.log(table["c"][size]))) < SEEDS for size in _members(groups(table["n"])))


def refuse_mixed_costs(table: Table, axis: str) -> None:
    """Raises DataError for a law in c, if models of one size were trained for several amounts of compute."""
    if axis != "c" or len(table) == 0 or not table.has("c", "n") or not _one(table, "d") or GROUP in table.words:
        return  # in a pooled table, models of one size belong to several groups
    if not _one(table, "n") and not has_one_cost(table):
        raise DataError(
            "Models of one size were trained for more than one amount of compute, so means over the runs of a size do "
            "not form a law in c. Fit the best runs for each compute (--law frontier), or another variable (--axis n)."
        )


def _members(size: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
    return [size == k for k in range(int(size.max()) + 1)]


def _one(table: Table, axis: str) -> bool:
    return not table.has(axis) or int(groups(table[axis]).max()) == 0


def _reasons(table: Table) -> str:
    listed = dict.fromkeys(e.reason for e in table.excluded)
    return f" Reasons: {'; '.join(list(listed)[:4])}." if listed else ""


def slice_of(table: Table, axis: str, at: float | None = None) -> tuple[Table, str]:
    """Choose the runs that differ only in `axis` and seed; every variable that `HELD` lists has one value in them.

    `at` is the value of the first of these variables. Without it, the value that occurs with the largest number of
    sizes is taken; if several do, the largest of them. Other rows are added to `excluded`.
    """
    other = BESIDE.get(axis)
    if at is not None and (other is None or not table.has(other)):
        raise DataError(
            f"--at {at:g}: a law in {axis} has no other variable that could be held at a value. Leave out --at."
        )
    return hold(table, axis, HELD.get(axis, ()), at)


def hold(table: Table, axis: str, others: Sequence[str], at: float | None = None) -> tuple[Table, str]:
    """Choose the runs that have one value of each of the variables `others`, which are held in this order.

    `at` is the value of the first. Raises DataError if a variable other than data and parameters changes with `axis`,
    so that too few sizes are left.
    """
    held = []
    for other in others:
        wanted = at if other == BESIDE.get(axis) else None
        if len(table) == 0 or not table.has(other, axis) or (wanted is None and _one(table, other)):
            continue
        kept, value = _at_one_value(table, axis, other, wanted)
        held.append(f"{other} = {value:,.0f}")
        fixed = ", ".join(held)
        if other != BESIDE.get(axis):
            _refuse_changing(table, table.take(kept), axis, other)
        table = table.keep(kept, f"its {other} differs: the law in {axis} is fitted at {fixed}")
    return table, ", ".join(held)


def _at_one_value(table: Table, axis: str, other: str, at: float | None) -> tuple[NDArray[np.bool_], float]:
    """Choose the rows with one value of the column `other`; returns a mask of the rows, and the value."""
    level, sizes = groups(table[other]), groups(table[axis])
    n_sizes = [len(set(sizes[level == v].tolist())) for v in range(int(level.max()) + 1)]
    values = [float(np.exp(np.log(table[other][level == v]).mean())) for v in range(len(n_sizes))]
    if at is None:
        chosen = max(range(len(values)), key=lambda v: (n_sizes[v], values[v]))
    else:
        chosen = min(range(len(values)), key=lambda v: abs(np.log(values[v] / at)))
        if abs(np.log(values[chosen] / at)) > 0.05:
            known = ", ".join(f"{v:,.0f}" for v in values)
            raise DataError(f"No runs have {other} = {at:g}. Choose one of: {known}.")
    return level == chosen, values[chosen]


def _refuse_changing(table: Table, part: Table, axis: str, other: str) -> None:
    """Raises DataError if `other` changes with `axis`, so that no value of it occurs with enough sizes for a law."""
    before, after = (int(groups(one[axis]).max()) + 1 for one in (table, part))
    if after < 3 <= before:
        theirs = table.names.get(other, other)
        raise DataError(
            f"{theirs} ({other}, {AXES[other]}) changes with {axis}: of {before} values of {axis}, at most {after} "
            f"{'has' if after == 1 else 'have'} one value of {theirs}. A law in {axis} needs runs that differ in "
            f"{axis} alone. Train sizes at one {theirs}, or fit a law of both (docs/laws.md lists the forms)."
        )


def not_held(table: Table, axes: Sequence[str]) -> list[str]:
    """Notes on variables that vary among the runs of a law in `axes`, although they are not variables of the law."""
    data = () if {"u", "s"} & {*axes} else ("d",)  # u and s are data already
    free = [a for a in ("n", *data, "e") if a not in axes and not ("c" in axes and a != "e") and not _one(table, a)]
    return [
        f"{table.names.get(a, a)} ({a}, {AXES[a]}) varies and is not held: its effect is mixed with that of "
        f"{' and '.join(axes)}. Choose one value with --where, or a law that has {a}"
        for a in free
    ]
