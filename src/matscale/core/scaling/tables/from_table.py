"""Make a table for laws from a file (CSV, JSON, JSON lines or parquet), whose columns may have other names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matscale.core.errors import ConfigError, DataError, did_you_mean
from matscale.core.runs.files import INFO, called
from matscale.core.scaling.tables.columns import (
    KNOWN,
    PARTS,
    TRAIN_LOSS,
    WORDS,
    ColumnChoice,
    choose,
    factor,
    is_scale,
    plain_name,
)
from matscale.core.scaling.tables.from_runs import not_complete, unfit_role
from matscale.core.scaling.tables.labels import with_labels
from matscale.core.scaling.tables.logs import name_runs
from matscale.core.scaling.tables.numerals import MISSING, Cell, Numerals
from matscale.core.scaling.tables.seen import as_seen
from matscale.core.scaling.tables.table import AXES, Excluded, Table, shown
from matscale.core.scaling.tables.tabular import SUFFIXES, read_records

__all__ = ["KNOWN", "SUFFIXES", "read_table", "table_of"]

LEDGER = {
    "n": "non_embedding",
    "d": "train",
    "c": "flops",
    "u": "train",
    "s": "structures",
    "loss": "last_loss",
    "arch": "architecture",
    "seed": "seed",
    "run": "path",
    "step": "steps",
}
"""Column of a ledger that is used as each column of the table. A ledger is the file of results of a study.

It gives the same law as the study's folders.
"""
LEDGERS_OWN = frozenset({"identity", "role", "status", *LEDGER.values()})
"""Columns by which a file is recognised as a study's file of results."""


def read_table(path: Path, columns: Mapping[str, str], where: Mapping[str, str] | None = None) -> Table:
    """Read the table in the file `path`; `columns` has the file's name for columns of a `Table`.

    Raises ConfigError for a mapped column that the file lacks. Raises DataError, with the row, if there is no loss or
    no size, or if a cell is not a number.
    """
    records, notes = read_records(path)
    return table_of(records, columns, where, path, notes)


def table_of(
    records: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    where: Mapping[str, str] | None = None,
    path: Path | None = None,
    notes: Sequence[str] = (),
) -> Table:
    """Make a table from records, which come from the file `path` or from a program; raises errors like `read_table`.

    `notes` are sentences on how the file was read; the table has them, and sentences on how its columns were chosen.
    """
    place, prefix = (str(path), f"{path.name} ") if path else ("rows", "")
    if not records:
        raise DataError(f"{place}: has no rows. A table needs one row per loss, and at least four sizes.")
    found = list(dict.fromkeys(key for record in records for key in record))
    is_ledger = set(found) >= LEDGERS_OWN
    choice = choose(place, found, {**LEDGER, **columns} if is_ledger else columns)
    _check_where(place, found, where or {})
    chosen = [(k, r) for k, r in enumerate(records) if _matches(r, where or {})]
    if not chosen:
        raise DataError(f"{place}: no row has {' and '.join(f'{k} = {v}' for k, v in (where or {}).items())}.")
    unfit = {k: (_left_out if is_ledger else _unfinished)(r) for k, r in chosen}
    fit = [(f"{prefix}row {k + 1}", record) for k, record in chosen if not unfit.get(k)]
    if not fit:
        raise DataError(f"{place}: no run of this study can be fitted: the first run {unfit[chosen[0][0]]}.")
    if not is_ledger:
        _refuse_parts(place, [record for _, record in fit], choice)
        _refuse_units(place, [record for _, record in fit], choice)
    rows, told = _rows(place, fit, choice, columns)
    _refuse_gaps(rows, choice.names)
    own = [record for _, record in fit]
    if is_ledger:
        _complete(rows, own, choice.names)
    refuse_mixture(rows)
    with_labels(rows, own, choice)
    again: list[Excluded] = []
    if not is_ledger:
        rows, again, choice, joined = name_runs(place, rows, own, choice, "run" in columns)
        told = [*told, *joined]
    folders = [str(r.get("path")) for r in own if is_ledger and (Path(str(r.get("path"))) / INFO).exists()]
    told = [*notes, *told]
    said = tuple(f"{place}: {sentence}" for sentence in ([choice.text] if told or choice.is_doubtful else []) + told)
    table = Table.of(rows, names=choice.names, facts={"folders": folders} if folders else {}, notes=said)
    if is_ledger:
        table = table.with_known_compute()
    excluded = [Excluded(f"{prefix}row {k + 1}", reason) for k, reason in unfit.items() if reason]
    return as_seen(replace(table, excluded=(*excluded, *again, *table.excluded)))


def _refuse_parts(place: str, records: Sequence[Mapping[str, Any]], choice: ColumnChoice) -> None:
    """Raises DataError if rows hold losses of several parts of the data, or several metrics."""
    for name in dict.fromkeys(name for record in records for name in record):
        values = list(dict.fromkeys(str(r[name]) for r in records if r.get(name) not in (None, "")))
        is_named = plain_name(name) in PARTS and name not in choice.names.values()
        if len(values) > 1 and (is_named or {value.strip().lower() for value in values} <= _PARTS_OF_DATA):
            likely = next((v for v in values if "val" in v.lower()), values[0])
            raise DataError(
                f"{place}: the column {name} has the values {', '.join(v[:40] for v in values[:5])}, whose losses are "
                f"not one quantity. Choose the rows of one: --where '{name}={likely[:60]}'."
            )


_PARTS_OF_DATA = frozenset(("train", "training", "val", "valid", "validation", "eval", "evaluation", "test", "dev"))


def _refuse_units(place: str, records: Sequence[Mapping[str, Any]], choice: ColumnChoice) -> None:
    """Raises DataError if a column such as `params_unit` gives the units of another column; they are not applied."""
    for name in dict.fromkeys(name for record in records for name in record):
        if not {"unit", "units"} & {*plain_name(name).split("_")} or name in choice.names.values():
            continue
        values = list(dict.fromkeys(str(r[name]).strip() for r in records if r.get(name) not in (None, "")))
        if len(values) > 1 or any(map(is_scale, values)):
            raise DataError(
                f"{place}: the column {name} has the units {', '.join(v[:40] for v in values[:5])}, which are not "
                "applied. Write all numbers in one unit, sizes as plain counts, and leave this column out."
            )


def _rows(
    place: str, records: Sequence[tuple[str, Mapping[str, Any]]], choice: ColumnChoice, columns: Mapping[str, str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Convert records to rows of the table, with numbers and words; also return notes on how they were read."""
    numeric = {ours: theirs for ours, theirs in choice.names.items() if ours not in WORDS}
    texts = [
        Cell(source, theirs, record[theirs])
        for source, record in records
        for theirs in dict.fromkeys(numeric.values())
        if isinstance(record.get(theirs), str)
    ]
    numerals = Numerals.of(texts)
    factors = {ours: factor(place, ours, theirs, ours in columns) for ours, theirs in numeric.items()}
    trains = _train_losses([record for _, record in records], choice)
    rows = []
    for source, record in records:
        row: dict[str, Any] = {"source": source}
        for ours, theirs in choice.names.items():
            if ours in WORDS:
                row[ours] = _word(record.get(theirs))
                continue
            value = _cell(source, theirs, record.get(theirs), numerals)
            if value is not None and factors[ours] != 1 and _has_suffix(record[theirs]):
                raise DataError(
                    f"{source}: {theirs} is {shown(record[theirs])}: both the cell and the heading have a unit. Remove "
                    "one of the two."
                )
            row[ours] = value if value is None else value * factors[ours]
        row["train_loss"] = _any_finite(record, trains, numerals)
        rows.append(row)
    scaled = [f"{theirs} is in units of {factors[ours]:g}" for ours, theirs in numeric.items() if factors[ours] != 1]
    return rows, [*numerals.notes, *scaled]


def _train_losses(records: Sequence[Mapping[str, Any]], choice: ColumnChoice) -> list[str]:
    """Names of the columns with the loss of training batches: `train_loss`, or `loss` if there is `val_loss`, too."""
    names = dict.fromkeys(name for record in records for name in record)
    beside = choice.beside.get("loss", [])
    return [
        name
        for name in names
        if name not in choice.names.values() and (TRAIN_LOSS.search(plain_name(name)) or name in beside)
        if "best" not in plain_name(name)
    ]


def _any_finite(record: Mapping[str, Any], names: Sequence[str], numerals: Numerals) -> float | None:
    for name in names:
        try:
            value = _cell("", name, record.get(name), numerals)
        except DataError:
            continue  # no number, so no loss either
        if value is not None and math.isfinite(value):
            return value
    return None


def _left_out(record: Mapping[str, Any]) -> str:
    """Reason why a law cannot use a row of a study's file of results; empty if the law can use it."""
    return unfit_role(record.get("role")) or not_complete(record.get("status"))


_UNFINISHED = frozenset(
    (
        *("crashed", "failed", "fail", "failure", "error", "errored", "killed", "aborted", "cancelled", "canceled"),
        *("interrupted", "preempted", "preempting", "timeout", "oom", "out_of_memory", "node_fail", "diverged"),
        *("pruned", "running", "pending", "queued", "scheduled", "unfinished", "incomplete"),
    )
)
"""States of a run, in tables of trackers and schedulers, in which its last loss is meaningless."""
_FLAGS = {"failed": True, "crashed": True, "diverged": True, "finished": False, "completed": False}
"""Answer for which the last loss is meaningless, by the name of a yes-or-no column."""


def _unfinished(record: Mapping[str, Any]) -> str:
    """Reason why a law cannot use a row, from a column such as `state`; empty if there is none."""
    for key, given in record.items():
        name, value = plain_name(str(key)), re.sub(r"\W+", "_", str(given).strip().lower())
        if name.endswith(("state", "status")) and value in _UNFINISHED:
            return f"did not finish ({key}: {value})"
        if name in _FLAGS and value in (("true", "yes", "1") if _FLAGS[name] else ("false", "no", "0")):
            return f"did not finish ({key}: {value})"
    return ""


def _complete(rows: Sequence[dict[str, Any]], records: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> None:
    """Complete the rows of a study's file of results.

    The variant is added to the architecture, and the FLOPs spent before the run are added to its compute.
    """
    for row, record in zip(rows, records, strict=True):
        if names["arch"] == LEDGER["arch"]:
            row["arch"] = called(row["arch"], record.get("variant"))
        if names["c"] == LEDGER["c"] and "flops_before" in record:
            before = _cell(row["source"], "flops_before", record["flops_before"], Numerals())
            row["c"] = None if before is None or row["c"] is None else row["c"] + before


def _refuse_gaps(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> None:
    """Raises DataError if some rows lack a size that other rows have: a law in d cannot use a row without d."""
    for axis in (axis for axis in AXES if axis in names):
        missing = [row for row in rows if row[axis] is None and row["loss"] is not None]
        if 0 < len(missing) < len(rows):
            more = f", and neither do {len(missing) - 1} more rows" if len(missing) > 1 else ""
            raise DataError(
                f"{missing[0]['source']}: has no {names[axis]} ({axis}, {AXES[axis]}){more}; the other rows have one. "
                f"Fill it in, or choose the rows that have it: --where '{names[axis]}=*'."
            )


def refuse_mixture(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises DataError if the losses of rows are defined differently, or if their units clearly differ."""
    seen: dict[str, str] = {}
    for row in rows:
        seen.setdefault(str(row.get("definition") or ""), str(row["source"]))
    if len(seen) > 1:
        (a, first), (b, second) = list(seen.items())[:2]
        raise DataError(
            f"{first} and {second}: their losses are not the same quantity ({a or 'unnamed'}; "
            f"{b or 'unnamed'}). A law needs losses of one definition: choose the rows of one with --where, or name "
            "other folders."
        )
    same: dict[tuple[Any, ...], tuple[float, str]] = {}
    for row in rows:
        key = tuple(row.get(k) for k in ("arch", *AXES, "step"))
        loss = row.get("loss")
        if not isinstance(loss, float) or not math.isfinite(loss) or loss <= 0:
            continue
        other, source = same.setdefault(key, (loss, str(row["source"])))
        factor = max(loss / other, other / loss)
        if 700 < factor < 1400:
            raise DataError(
                f"{source} and {row['source']} have the same sizes, but their losses {other:g} and {loss:g} differ by "
                f"a factor of {factor:.0f}, as if one were in eV and the other in meV. Write all losses in one unit."
            )


def _check_where(place: str, found: list[str], where: Mapping[str, str]) -> None:
    for name in where:
        if name not in found:
            raise ConfigError(f"{place}: has no column {name!r} (--where). {did_you_mean(name, found)}")


def _matches(record: Mapping[str, Any], where: Mapping[str, str]) -> bool:
    """Whether a record has the values in `where`; the value `*` stands for any value that is not missing."""
    values = ((record.get(name), wanted) for name, wanted in where.items())
    return all(
        str(value) == wanted or _equal_numbers(value, wanted) or (wanted == "*" and not _is_missing(value))
        for value, wanted in values
    )


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in MISSING)


def _equal_numbers(value: Any, wanted: str) -> bool:
    try:
        return float(value) == float(wanted)
    except (TypeError, ValueError):
        return False


def _word(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _has_suffix(value: Any) -> bool:
    return isinstance(value, str) and value.strip()[-1:].isalpha() and value.strip().lower() not in ("nan", "inf")


def _cell(source: str, column: str, value: Any, numerals: Numerals) -> float | None:
    if _is_missing(value):
        return None
    try:
        if isinstance(value, str):
            return numerals.value(value)
        if not isinstance(value, bool | bytes):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise DataError(f"{source}: {column} is {shown(value)}, not a number. Correct the row, or map another column.")
