"""Table that laws are fitted to: one row per measured loss, and a list of the rows that were left out, with reasons.

| column | meaning |
|---|---|
| loss | fitted quantity: the compared loss, or another error |
| n, d, c | parameters, data, training FLOPs; any other number may be mapped to them |
| u, s, e | unique structures and structures seen (laws `repetition`, `overfitting`), experts (law `routing`) |
| arch, seed, run, step | the model that has this loss; rows of one run with several steps are its curve |
| source | where the row was read, for messages |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matscale.core.errors import DataError
from matscale.core.scaling.law import Array

Words = NDArray[np.str_]
Mask = NDArray[np.bool_]

AXES = {
    "n": "parameters",
    "d": "data",
    "c": "compute",
    "u": "unique structures",
    "s": "structures seen",
    "e": "experts",
}
WORDS = ("arch", "seed", "run", "source")
GROUP = "group"
"""Name of the column with the architecture that a row had before its table was pooled."""
LABEL = "label: "
"""Prefix of the names of labels: columns of text that a file has besides the usual ones, such as `label: dataset`."""
SAME = 0.01
"""Largest relative difference between values that count as one size."""
LARGEST = 1e40
"""Largest plausible amount or loss; larger values, and those below its inverse, are refused as typing errors."""


@dataclass(frozen=True)
class Excluded:
    """Row that laws do not use, with the reason."""

    row: str
    reason: str

    def plain(self) -> dict[str, str]:
        return {"row": self.row, "reason": self.reason}


@dataclass(frozen=True)
class Table:
    """Immutable columns of equal length with the losses that laws are fitted to. Make a table with `Table.of`."""

    numbers: Mapping[str, Array]
    words: Mapping[str, Words]
    excluded: tuple[Excluded, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    """Name of each column in the source, by its name in the table."""
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Errors of baselines on the same validation set, {baseline: {error: value}}, with the error that is the loss."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts from the records for the checklist, other than columns."""
    notes: tuple[str, ...] = ()
    """Notes on how the file was read: the chosen columns, and the meaning of its rows."""

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], **extra: Any) -> Table:
        """Make a table from rows, which are dictionaries by the names of columns.

        Columns other than the usual ones are kept if they are numeric, or if they are text and their name begins with
        `LABEL`. A run diverged if its last loss is not finite: all its rows are excluded. NaN before a finite loss, or
        beside a finite `train_loss`, is a row without validation, and only that row is excluded. Raises DataError, with
        the row, for a loss, n, d or c that is not positive, and if two rows of one run contradict each other at one
        step.
        """
        rows = [{"source": f"row {k + 1}", **row} for k, row in enumerate(rows)]
        for row in rows:
            _check(row)
        axes = [a for a in AXES if any(row.get(a) is not None for row in rows)]
        others = sorted({k for row in rows for k, v in row.items() if isinstance(v, float | int)} - {"step", *WORDS})
        numbers = {
            name: np.array([_number(row.get(name)) for row in rows]) for name in {*axes, *others, "loss", "step"}
        }
        words = {name: np.array([_word(row.get(name)) for row in rows], dtype=np.str_) for name in WORDS}
        labels = dict.fromkeys(k for row in rows for k in row if k.startswith(LABEL))
        words |= {name: np.array([_word(row.get(name)) for row in rows], dtype=np.str_) for name in labels}
        table = cls(numbers, words, **extra)
        reasons = _not_finite(table, rows)
        table = table.keep(np.array([not reason for reason in reasons], dtype=bool), lambda k: reasons[k])
        table = table.keep(np.isfinite(table["loss"]), "has no value of the loss")
        return _without_copies(table)

    def __len__(self) -> int:
        return len(self.numbers["loss"])

    def __getitem__(self, name: str) -> Array:
        return self.numbers[name]

    def has(self, *axes: str) -> bool:
        """Whether the table has all these columns, with finite numbers in every row."""
        return all(a in self.numbers and len(self) > 0 and bool(np.isfinite(self.numbers[a]).all()) for a in axes)

    @property
    def architectures(self) -> list[str]:
        return sorted(set(self.words["arch"].tolist()))

    def take(self, mask: Mask) -> Table:
        """Table of the rows in `mask`; other rows are dropped without being listed as excluded."""
        return replace(
            self,
            numbers={k: v[mask] for k, v in self.numbers.items()},
            words={k: v[mask] for k, v in self.words.items()},
        )

    def keep(self, mask: Mask, reason: str | Callable[[int], str]) -> Table:
        """Table of the rows in `mask`; other rows are listed in `excluded`, with the reason."""
        out = np.flatnonzero(~mask)
        new = [
            Excluded(str(self.words["source"][k]), reason if isinstance(reason, str) else reason(int(k))) for k in out
        ]
        return replace(self.take(mask), excluded=(*self.excluded, *new))

    def keep_runs(self, mask: Mask, reason: str) -> Table:
        """Table of the rows in `mask`; runs that have no row in it are listed in `excluded`, with the reason."""
        names, kept = self.runs, set(self.runs[mask].tolist())
        last = {str(name): k for k, name in enumerate(names) if name not in kept}
        words = (str(self.words["run"][k] or self.words["source"][k]) for k in last.values())
        return replace(self.take(mask), excluded=(*self.excluded, *(Excluded(word, reason) for word in words)))

    def with_known_compute(self) -> Table:
        """Leave out runs whose compute is unknown, since they began with an imported model.

        If the compute of all runs is unknown, none is left out.
        """
        known = np.isfinite(self.numbers.get("c", np.full(len(self), np.nan)))
        reason = "began with an imported model: the compute of that model is unknown"
        return self.keep_runs(known, reason) if known.any() else self

    def of_architecture(self, name: str) -> Table:
        return self.take(self.words["arch"] == name)

    def ends(self, at: str = "last") -> Table:
        """Table of the last step of each run; with `at="best"`, of its best step; with `at="all"`, of every step.

        A row without run or step counts as a separate run. For the best step, the compute is nevertheless that of the
        whole run; if several steps share the least loss, the last of them is the best.
        """
        if at == "all":
            return self
        last: dict[str, int] = {}
        least: dict[str, float] = {}
        for k, name in enumerate(self.runs):
            if name not in last or self["step"][k] > self["step"][last[name]]:
                last[name] = k
            least[name] = min(self["loss"][k], least.get(name, np.inf))
        mask = np.zeros(len(self), dtype=bool)
        mask[list(last.values())] = True
        ends = self.take(mask)
        if at == "last":
            return ends
        return replace(ends, numbers={**ends.numbers, "loss": np.array([least[name] for name in self.runs[mask]])})

    @property
    def runs(self) -> Words:
        """Name of the run of each row. A row without run or step counts as a separate run."""
        own = np.array([f"#{k}" for k in range(len(self))])
        with_step = np.isfinite(self["step"]) & (self.words["run"] != "")
        return np.where(with_step, self.words["run"], own)

    @property
    def has_curves(self) -> bool:
        """Whether some run has several steps."""
        return len(set(self.runs.tolist())) < len(self)


def groups(values: Array, tolerance: float = SAME) -> NDArray[np.int64]:
    """Index of the size of each value [k], with sizes numbered from 0 in ascending order.

    Values within `tolerance` of the smallest value of a size belong to this size.

    >>> groups(np.array([1000.0, 30_000.0, 1001.0])).tolist()
    [0, 1, 0]
    """
    order = np.argsort(values, kind="stable")
    labels = np.empty(len(values), dtype=np.int64)
    label, start = -1, -np.inf
    for k, logarithm in zip(order, np.log(values[order])):
        if logarithm - start > tolerance:
            label, start = label + 1, logarithm
        labels[k] = label
    return labels


def shown(value: Any) -> str:
    """Short text of any value, for messages."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = f"an integer of {value.bit_length()} bits"
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text):,} characters)"


def _check(row: Mapping[str, Any]) -> None:
    for name in ("loss", *AXES):
        value = row.get(name)
        if value is None:
            continue
        try:
            number = float(value) if isinstance(value, float | int) and not isinstance(value, bool) else None
        except OverflowError:
            number = None
        if number is None:
            raise DataError(
                f"{row['source']}: {name} is {shown(value)}, not a number. Correct the row, or map another column."
            )
        if row.get("loss") is None:
            continue  # the row is left out, whatever its size
        diverged = name == "loss" and not np.isfinite(number)
        if not diverged and not (number > 0 and np.isfinite(number)):
            raise DataError(
                f"{row['source']}: {name} is {shown(value)}; a scaling law needs positive numbers. Correct or drop the "
                "row."
            )
        if not diverged and not 1 / LARGEST < number < LARGEST:
            raise DataError(
                f"{row['source']}: {name} is {shown(value)}, outside the plausible range of {1 / LARGEST:g} to "
                f"{LARGEST:g}. Correct or drop the row."
            )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, float | int) and not isinstance(value, bool) else float("nan")


def _word(value: Any) -> str:
    return "" if value is None else str(value)


def _not_finite(table: Table, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Reason why each row is left out, if its loss, or the last loss of its run, is not finite.

    The reason is empty for other rows; a missing loss is treated elsewhere.
    """
    stated = [isinstance(row.get("loss"), float | int) for row in rows]
    reasons = [""] * len(rows)
    diverged: dict[str, bool] = {}
    names, losses = table.runs.tolist(), table["loss"].tolist()
    for k in np.argsort(table["step"], kind="stable")[::-1].tolist():  # a run's last step decides
        is_finite, is_nan = np.isfinite(losses[k]), np.isnan(losses[k])
        if not stated[k]:
            continue
        if is_nan and rows[k].get("train_loss") is not None:
            reasons[k] = "has no validation: its training loss is finite"
        elif diverged.setdefault(names[k], not is_finite):
            reasons[k] = "its run diverged later" if is_finite else "diverged: its loss is not finite"
        elif not is_finite:
            reasons[k] = "has no validation: later losses are finite" if is_nan else "its loss is infinite"
    return reasons


def _without_copies(table: Table) -> Table:
    """Exclude rows that are copies of another row. Raises DataError for rows that contradict each other."""
    keep = np.ones(len(table), dtype=bool)
    first: dict[tuple[Any, ...], int] = {}
    reasons: dict[int, str] = {}
    axes = [a for a in (*AXES, "step") if a in table.numbers]
    columns = [table.words["arch"].tolist(), table.words["seed"].tolist()]
    columns += [np.where(np.isfinite(table[a]), table[a], -1.0).tolist() for a in axes]  # NaN is not equal to itself
    runs, losses = table.words["run"].tolist(), table["loss"].tolist()
    for k, place in enumerate(zip(*columns)):
        for known in ((runs[k], place), (losses[k], place)):
            if known in first and keep[k]:
                _refuse_contradiction(table, first[known], k)
                keep[k] = False
                reasons[k] = f"repeats {table.words['source'][first[known]]}"
        if keep[k]:
            first.setdefault((losses[k], place), k)
            if runs[k]:
                first.setdefault((runs[k], place), k)
    return table.keep(keep, lambda k: reasons[k])


def _refuse_contradiction(table: Table, a: int, b: int) -> None:
    if table["loss"][a] != table["loss"][b]:
        raise DataError(
            f"{table.words['source'][a]} and {table.words['source'][b]}: both are run '{table.words['run'][a]}' at the "
            f"same sizes and step, with losses {table['loss'][a]:g} and {table['loss'][b]:g}. Give each run a name of "
            "its own, or say which column has the names: --map run=COLUMN."
        )
