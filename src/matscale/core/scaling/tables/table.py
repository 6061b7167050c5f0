"""Table that laws are fitted to: one row per measured loss, and a list of the rows that were left out, with reasons.

| column | meaning |
|---|---|
| loss | what is fitted: the compared loss, or another error |
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
"""Architecture that a row had before its table was pooled."""
LABEL = "label: "
"""Beginning of the names of columns of text that a file has beside those of a table, such as `label: dataset`."""
SAME = 0.01
"""Largest relative difference of values that count as one size."""
LARGEST = 1e40
"""Largest plausible amount or loss; values beyond it, or below its inverse, are refused as typing errors."""


@dataclass(frozen=True)
class Excluded:
    """Row that is left out of all laws, with the reason."""

    row: str
    reason: str

    def plain(self) -> dict[str, str]:
        return {"row": self.row, "reason": self.reason}


@dataclass(frozen=True)
class Table:
    """Columns of equal length, immutable. Make one with `Table.of`."""

    numbers: Mapping[str, Array]
    words: Mapping[str, Words]
    excluded: tuple[Excluded, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    """Column -> its name in the source."""
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Baseline -> error -> value, on the same validation set; the error that was mapped to `loss` is among them."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts from the records that are not numbers, for the checklist."""
    notes: tuple[str, ...] = ()
    """Notes on how the file was read: which column became what, what its rows are."""

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], **extra: Any) -> Table:
        """Make a table from dictionaries with the columns above; other numeric columns are kept beside them,
        and so is text whose name begins with `LABEL`.

        A run diverged if its last loss is not finite: all its rows are excluded. NaN before a finite loss, or beside a
        finite `train_loss`, is a row without validation, and only that row is excluded. Raises DataError that names the
        row for a loss, n, d or c that is not positive, and if two rows of one run contradict each other at one step.
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
        """Whether every row has finite numbers in these columns."""
        return all(a in self.numbers and len(self) > 0 and bool(np.isfinite(self.numbers[a]).all()) for a in axes)

    @property
    def architectures(self) -> list[str]:
        return sorted(set(self.words["arch"].tolist()))

    def take(self, mask: Mask) -> Table:
        """Table of the rows in `mask`. The others are dropped and not listed as excluded."""
        return replace(
            self,
            numbers={k: v[mask] for k, v in self.numbers.items()},
            words={k: v[mask] for k, v in self.words.items()},
        )

    def keep(self, mask: Mask, reason: str | Callable[[int], str]) -> Table:
        """Table of the rows in `mask`; the others are listed in `excluded` with the reason."""
        out = np.flatnonzero(~mask)
        new = [
            Excluded(str(self.words["source"][k]), reason if isinstance(reason, str) else reason(int(k))) for k in out
        ]
        return replace(self.take(mask), excluded=(*self.excluded, *new))

    def keep_runs(self, mask: Mask, reason: str) -> Table:
        """Table of the rows in `mask`; runs that lose all their rows are listed in `excluded` with the reason."""
        names, kept = self.runs, set(self.runs[mask].tolist())
        last = {str(name): k for k, name in enumerate(names) if name not in kept}
        words = (str(self.words["run"][k] or self.words["source"][k]) for k in last.values())
        return replace(self.take(mask), excluded=(*self.excluded, *(Excluded(word, reason) for word in words)))

    def with_known_compute(self) -> Table:
        """Leave out runs whose compute is unknown (they began with an imported model), if that of other runs is
        known.
        """
        known = np.isfinite(self.numbers.get("c", np.full(len(self), np.nan)))
        reason = "began with an imported model: the compute of that model is unknown"
        return self.keep_runs(known, reason) if known.any() else self

    def of_architecture(self, name: str) -> Table:
        return self.take(self.words["arch"] == name)

    def ends(self, at: str = "last") -> Table:
        """Table with one row per run, its last step. With `at="best"`, its best step; with `at="all"`, every row.

        A row without run or step counts as a separate run. With `best`, the cost is still that of the whole
        run; if several steps share the least loss, the last of them is taken.
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
        """Name of the run of each row: rows with a step belong together by run, other rows are separate runs."""
        own = np.array([f"#{k}" for k in range(len(self))])
        with_step = np.isfinite(self["step"]) & (self.words["run"] != "")
        return np.where(with_step, self.words["run"], own)

    @property
    def has_curves(self) -> bool:
        """Whether there are runs with several steps."""
        return len(set(self.runs.tolist())) < len(self)


def groups(values: Array, tolerance: float = SAME) -> NDArray[np.int64]:
    """Group values [k] by size: returns the number of the size of each.

    A size spans `tolerance` from its least value.

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
    """Short text of any value, for a message."""
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
                f"{row['source']}: {name} is {shown(value)}, outside {1 / LARGEST:g} to {LARGEST:g}: no training has "
                "that. Correct or drop the row."
            )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, float | int) and not isinstance(value, bool) else float("nan")


def _word(value: Any) -> str:
    return "" if value is None else str(value)


def _not_finite(table: Table, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Reason for each row that is left out for a loss that is not finite, in the row or at the end of its run.

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
            reasons[k] = "has no validation: finite losses follow" if is_nan else "its loss is infinite"
    return reasons


def _without_copies(table: Table) -> Table:
    """Exclude rows that repeat another row. Raises DataError for rows that contradict each other."""
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
            f"same sizes and step, with losses {table['loss'][a]:g} and {table['loss'][b]:g}. Name each run apart, "
            "or say which column does: --map run=COLUMN."
        )
