"""Rows from a file: CSV, JSON lines or parquet, with a map from our columns to theirs."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matscale.core.errors import ConfigError, DataError, MatscaleError, did_you_mean
from matscale.core.scaling.table import AXES, Excluded, Table
from matscale.core.train.names import INFO, called
from matscale.core.train.units import parse_count

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
KNOWN = {
    "n": ("n", "params", "parameters", "num_params", "n_params", "non_embedding"),
    "d": ("d", "data", "tokens", "dataset_size", "structures", "seen_examples"),
    "c": ("c", "flops", "cumulative_flops", "compute"),
    "loss": ("loss", "val_loss", "validation_loss", "best_val_loss", "final_loss"),
    "arch": ("arch", "architecture", "model"),
    "seed": ("seed",),
    "run": ("run", "run_name", "model_name"),
    "step": ("step", "epoch"),
    "u": ("u", "unique"),
    "s": ("s", "seen"),
    "e": ("e", "experts", "num_experts"),
    "definition": ("definition",),
}
"""Our column -> what it is usually called; used where the map says nothing."""
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
"""The same for the ledger of a study, so that it gives the law that the study's folders give."""
LEDGERS_OWN = frozenset({"identity", "role", "status", *LEDGER.values()})
"""A file with all of these columns is one."""
TEXT = ("arch", "seed", "run", "definition")


def read_table(path: Path, columns: Mapping[str, str], where: Mapping[str, str] | None = None) -> Table:
    """The rows of `path` as a table. `columns` maps our names to those of the file.

    Raises ConfigError for a mapped column that the file has not, DataError with the row if there is no loss
    or no size, or if a cell is no number.
    """
    try:
        records = list(_records(path))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text in UTF-8 ({error}). Save it as CSV or JSON lines in UTF-8.") from None
    return table_of(records, columns, where, path)


def table_of(
    records: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    where: Mapping[str, str] | None = None,
    path: Path | None = None,
) -> Table:
    """Rows of the file `path`, or of a program, as a table; errors as for `read_table`."""
    place, prefix = (str(path), f"{path.name} ") if path else ("rows", "")
    if not records:
        raise DataError(f"{place}: has no rows. A table needs one row per loss, and at least four sizes.")
    found = list(dict.fromkeys(key for record in records for key in record))
    is_ledger = set(found) >= LEDGERS_OWN
    names = _resolve(place, found, {**LEDGER, **columns} if is_ledger else columns)
    _check_where(place, found, where or {})
    chosen = [(k, r) for k, r in enumerate(records) if _matches(r, where or {})]
    if not chosen:
        raise DataError(f"{place}: no row has {' and '.join(f'{k} = {v}' for k, v in (where or {}).items())}.")
    unfit = {k: _unfit(r) for k, r in chosen} if is_ledger else {}
    rows = [_row(f"{prefix}row {k + 1}", record, names) for k, record in chosen if not unfit.get(k)]
    if not rows:
        raise DataError(f"{place}: no run of this study can be fitted: the first {unfit[chosen[0][0]]}.")
    _refuse_gaps(rows, names)
    if is_ledger:
        _complete(rows, [record for k, record in chosen if not unfit[k]], names)
    refuse_mixture(rows)
    folders = [r["path"] for k, r in chosen if is_ledger and not unfit[k] and (Path(r["path"]) / INFO).exists()]
    table = Table.of(rows, names=names, facts={"folders": folders} if folders else {})
    if is_ledger:
        table = table.with_known_compute()
    excluded = [Excluded(f"{prefix}row {k + 1}", reason) for k, reason in unfit.items() if reason]
    return replace(table, excluded=(*excluded, *table.excluded))


def _unfit(record: Mapping[str, Any]) -> str:
    """Why a row of a ledger is no point of a law; empty if it is one."""
    if record["role"] == "trunk":
        return "is the trunk of cooldowns: its learning rate never fell; its branches count"
    if record["role"] == "pretrain":
        return "is pre-training: its loss is another quantity; runs that begin with it count"
    return "" if record["status"] == "completed" else f"is not complete (status: {record['status']})"


def _complete(rows: Sequence[dict[str, Any]], records: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> None:
    """What a ledger says in two columns: variants are architectures, and compute includes what a run began with."""
    for row, record in zip(rows, records, strict=True):
        if names["arch"] == LEDGER["arch"]:
            row["arch"] = called(row["arch"], record.get("variant"))
        if names["c"] == LEDGER["c"] and "flops_before" in record:
            before = _cell(row["source"], "flops_before", record["flops_before"])
            row["c"] = None if before is None else row["c"] + before


def _refuse_gaps(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> None:
    """Raises DataError if some rows have a size and others not: a law at one d cannot place a row without d."""
    for axis in (axis for axis in AXES if axis in names):
        missing = [row for row in rows if row[axis] is None]
        if 0 < len(missing) < len(rows):
            more = f", nor have {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(
                f"{missing[0]['source']}: has no {names[axis]} ({axis}, {AXES[axis]}){more}; the other rows do. Fill "
                "it in, or choose rows that have it with --where."
            )


def refuse_mixture(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises DataError if rows say that their losses are defined differently, or plainly differ in their unit."""
    seen: dict[str, str] = {}
    for row in rows:
        seen.setdefault(str(row.get("definition") or ""), str(row["source"]))
    if len(seen) > 1:
        (a, first), (b, second) = list(seen.items())[:2]
        raise DataError(
            f"{first} and {second}: their losses are not the same quantity ({a or 'unnamed'}; {b or 'unnamed'}). "
            "One law needs one definition: fit them apart (--where, or other folders)."
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
                f"{source} and {row['source']}: same sizes, but the losses {other:g} and {loss:g} differ by a factor "
                f"of {factor:.0f}, as eV and meV do. Bring all rows to one unit."
            )


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix in (".csv", ".tsv"):
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from _csv(path, csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    elif path.suffix == ".parquet":
        yield from _parquet(path)
    else:
        yield from _json_lines(path)


def _csv(path: Path, reader: csv.DictReader[str]) -> Iterator[dict[str, Any]]:
    twice = sorted(name for name, times in Counter(reader.fieldnames or ()).items() if times > 1)
    if twice:
        raise DataError(f"{path}: has two columns {twice[0]!r}, of which one would be lost. Rename or remove one.")
    for number, record in enumerate(reader, start=1):
        unnamed: Any = None  # where csv puts what has no column
        beyond = record.pop(unnamed, ())
        if any(cell.strip() for cell in beyond):
            raise DataError(
                f"{path.name} row {number}: has more cells than the {len(record)} columns of the first line. Write "
                "decimal points, and quote text that holds the separator."
            )
        yield record


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: line {number} is not JSON ({error}). Write one object per line.") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}: line {number} is {line[:40]!r}, not an object. Write one object per line.")
        yield record


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MatscaleError(
            f'{path}: reading parquet takes pyarrow, which is not installed: pip install "matscale[tables]", or save '
            "it as CSV."
        ) from None
    try:
        rows = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise DataError(
            f"{path}: is no parquet that can be read ({error}). Write it again, or save it as CSV."
        ) from None
    yield from rows


def _resolve(place: str, found: list[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Our column -> the file's."""
    for ours, theirs in columns.items():
        if theirs not in found:
            raise ConfigError(f"{place}: has no column {theirs!r} (for {ours}). {did_you_mean(theirs, found)}")
    lowered = {name.lower(): name for name in reversed(found)}
    guessed = {
        ours: lowered[theirs]
        for ours, usual in KNOWN.items()
        for theirs in reversed(usual)
        if theirs in lowered and lowered[theirs] not in columns.values()
    }
    names = {**guessed, **columns}
    if "loss" not in names:
        raise DataError(f"{place} row 1: which column is the loss? Say --map loss=COLUMN. It has: {', '.join(found)}.")
    if not set(names) & set(AXES):
        raise DataError(
            f"{place} row 1: which column is the size? Say --map n=COLUMN (or d, c). It has: {', '.join(found)}."
        )
    return names


def _check_where(place: str, found: list[str], where: Mapping[str, str]) -> None:
    for name in where:
        if name not in found:
            raise ConfigError(f"{place}: has no column {name!r} (--where). {did_you_mean(name, found)}")


def _matches(record: Mapping[str, Any], where: Mapping[str, str]) -> bool:
    values = ((record.get(name), wanted) for name, wanted in where.items())
    return all(str(value) == wanted or _equal_numbers(value, wanted) for value, wanted in values)


def _equal_numbers(value: Any, wanted: str) -> bool:
    try:
        return float(value) == float(wanted)
    except (TypeError, ValueError):
        return False


def _row(source: str, record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {"source": source}
    for ours, theirs in names.items():
        value = record.get(theirs)
        row[ours] = value if ours in TEXT else _cell(source, theirs, value)
    return row


def _cell(source: str, column: str, value: Any) -> float | None:
    if value is None or (isinstance(value, str) and value.strip() in ("", "NA", "null", "None")):
        return None
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        if not isinstance(value, bool):
            return float(parse_count(value))
    except (TypeError, ValueError, OverflowError):
        pass
    raise DataError(f"{source}: {column} is {value!r}, not a number. Correct the row, or map another column.")
