"""Labels: columns of text of a table, such as `dataset`. A law must not mix their effect with the effect of a size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from matscale.core.errors import DataError
from matscale.core.scaling.tables.column_kinds import is_date, is_metric
from matscale.core.scaling.tables.columns import ColumnChoice, words_of
from matscale.core.scaling.tables.table import AXES, GROUP, LABEL, Table, Words, groups
from matscale.core.scaling.text import listed, size

DATA = frozenset(
    (
        *(
            "dataset",
            "datasets",
            "data",
            "corpus",
            "functional",
            "functionals",
            "xc",
            "dft",
            "labels",
            "theory",
            "basis",
        ),
        *("loss", "criterion", "objective", "metric", "trained", "database"),
    )
)
"""Words in headings of labels that say what a loss was measured on, or how; losses of two values are two quantities."""
_HARMLESS = frozenset(
    (
        *("note", "notes", "comment", "comments", "remark", "remarks", "description", "todo", "tags"),
        *("url", "link", "doi", "paper", "reference", "citation", "author", "authors", "user", "owner", "email"),
        *("host", "hostname", "node", "nodelist", "machine", "gpu", "gpus", "device", "hardware", "accelerator"),
        *("cluster", "queue", "commit", "git", "path", "file", "folder", "directory", "dir", "status", "state"),
        *("date", "time", "timestamp", "created", "updated", "started", "finished", "runtime", "duration"),
        *("size", "scale", "tier", "license", "diverged", "failed", "crashed", "completed"),
        *("id", "uuid", "hash", "identity", "sweep", "project", "entity"),
    )
)
"""Words in headings of columns of text that do not affect a loss, or that name a size or a run."""
_AMOUNT = re.compile(r"[-+]?[\d.,]*\d[\d.,]*(e[-+]?\d+)?\s*[a-zA-Z%]{0,2}")


def with_labels(rows: Sequence[dict[str, Any]], records: Sequence[Mapping[str, Any]], choice: ColumnChoice) -> None:
    """Copy the labels of the records, which are columns of text, into the rows of a table."""
    used = {*choice.names.values(), *choice.beside.get("run", [])}
    for name in dict.fromkeys(name for record in records for name in record):
        words = words_of(name)
        if name in used or (words & _HARMLESS and not words & (DATA - {"loss"})):
            continue
        values = [record.get(name) for record in records]
        is_text = any(isinstance(v, bool) or (isinstance(v, str) and not _is_amount(v)) for v in values)
        if not is_text or not all(v is None or isinstance(v, str | bool | int | float) for v in values):
            continue
        if len({str(v) for v in values}) == 1 or (is_metric(name) and any(map(_is_number, values))):
            continue
        for row, value in zip(rows, values, strict=True):
            row[f"{LABEL}{name}"] = "" if value is None else str(value).strip()


def _is_amount(text: str) -> bool:
    stripped = text.strip()
    return not stripped or stripped.lower() in ("nan", "-", "none", "null") or is_date(text) or _is_plain(stripped)


def _is_plain(text: str) -> bool:
    return _AMOUNT.fullmatch(text) is not None or _is_number(text)


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and value is not None and float(value) is not None
    except ValueError:
        return False


def labels_of(table: Table) -> list[str]:
    """Headings of the labels of a table, which are its columns of text."""
    return [name.removeprefix(LABEL) for name in table.words if name.startswith(LABEL)]


def refuse_confounded(table: Table) -> None:
    """Raises DataError if a label has other values for other sizes, so that a law would mix the two effects.

    A label that only names the sizes is allowed. A pooled table is not tested: its groups differ in many ways, and
    their scatter includes these differences.
    """
    if GROUP in table.words or len(table) == 0:
        return
    levels = {axis: groups(table[axis]) for axis in AXES if table.has(axis)}
    varying = [axis for axis in levels if levels[axis].max() > 0]
    axes = [axis for axis in varying if axis != "c"] or varying
    for name in labels_of(table):
        values = table.words[f"{LABEL}{name}"]
        known = list(dict.fromkeys(values.tolist()))
        if len(known) < 2 or any(_names_levels(values, levels[axis]) for axis in varying):
            continue
        for axis in axes:
            at = [set(values[levels[axis] == k].tolist()) for k in range(int(levels[axis].max()) + 1)]
            if any(one != at[0] for one in at):
                raise DataError(_confounded(table, name, axis, known))


def _names_levels(values: Words, level: np.ndarray) -> bool:
    """Whether each value occurs at one size only; `level` is the index of the size of each row."""
    return all(len(set(level[values == value].tolist())) == 1 for value in set(values.tolist()))


def _names_sizes(table: Table, name: str) -> bool:
    levels = [groups(table[axis]) for axis in AXES if table.has(axis)]
    return any(_names_levels(table.words[f"{LABEL}{name}"], level) for level in levels if level.max() > 0)


def _confounded(table: Table, name: str, axis: str, known: Sequence[str]) -> str:
    values = table.words[f"{LABEL}{name}"]
    ranges = []
    for value in known[:4]:
        at = table[axis][values == value]
        span = size(float(at.min())) if at.min() == at.max() else f"{size(float(at.min()))} to {size(float(at.max()))}"
        ranges.append(f"{value[:40] or 'empty'} for {axis} = {span}")
    more = f" and {len(known) - 4} more" if len(known) > 4 else ""
    likely = next((value for value in known if value), "*")
    return (
        f"{name} changes with {axis}: it is {', '.join(ranges)}{more}. A law would mix its effect with that of {axis}. "
        f"Choose one: --where '{name}={likely[:60]}'; or make it the groups: --map 'arch={name}' gives a law of each, "
        "with --law mixed one exponent. If it does not change the loss, leave the column out of the table."
    )


def differing_labels(parts: Mapping[str, Table]) -> list[str]:
    """Sentences on labels (columns of text) that have other values in other architectures of a comparison.

    Raises DataError if such a label says what the losses were measured on.
    """
    told = []
    for name in dict.fromkeys(label for part in parts.values() for label in labels_of(part)):
        at = {key: set(part.words[f"{LABEL}{name}"].tolist()) for key, part in parts.items()}
        shared = set.intersection(*at.values())
        if len(set(map(frozenset, at.values()))) == 1 or all(_names_sizes(part, name) for part in parts.values()):
            continue
        values = "; ".join(f"{key}: {listed(sorted(v or 'empty' for v in of_one))}" for key, of_one in at.items())
        if words_of(name) & DATA:
            choose = f"--where '{name}={min(shared)}'" if shared else "train both on the same"
            raise DataError(
                f"The column {name} differs between the architectures ({values}): their losses are not the same "
                f"quantity. Compare runs of one {name}: {choose}."
            )
        told.append(f"{name} differs between the architectures ({values}): the comparison includes its effect")
    return told
