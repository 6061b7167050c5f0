"""Correct the amount of data of runs that did not read all of their training part: count only what they read.

A run of 60 steps of 8 structures has read 480 structures, whether its training part has 3,600 or a million. A law must
not count data that no run has read.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from matscale.core.scaling.law import Array
from matscale.core.scaling.tables.table import SAME, Table
from matscale.core.scaling.text import counted, size

WHOLE = "size of the data"
"""Column with the size of the training part, if some run read less than that."""
_COUNTED = re.compile("structure|atom|edge|token|sample|example|sequence|hour|epoch|step|batch")


def as_seen(table: Table) -> Table:
    """Copy of a table in which the data of each run, `d` and `u`, are at most what the run has read in total (`s`)."""
    if not table.has("s"):
        return table
    seen = _totals(table, table["s"])
    numbers = dict(table.numbers)
    for axis in ("u", "d"):
        if table.has(axis) and _alike(table, axis) and bool((seen < table[axis] * (1 - SAME)).any()):
            numbers[WHOLE] = table[axis]
            numbers[axis] = np.where(seen < table[axis] * (1 - SAME), seen, table[axis])
    changed = replace(table, numbers=numbers)
    told = seen_note(changed)
    return replace(changed, notes=(*table.notes, f"{told[0].upper()}{told[1:]}.")) if told else table


def seen_note(table: Table) -> str:
    """Sentence on the runs of a table that read only a part of their data; empty if there are none."""
    if len(table) == 0 or WHOLE not in table.numbers:
        return ""
    ends = table.ends()
    shares = _totals(table, table["s"])[np.isin(table.words["source"], ends.words["source"])] / ends[WHOLE]
    below = shares < 1 - SAME
    if not below.any():
        return ""
    least = int(np.argmin(shares))
    runs, whose = counted(int(below.sum()), "run"), "its" if below.sum() == 1 else "their"
    told = f"{runs} of {len(shares)} saw {whose} data less than once (the least: {size(float(ends['s'][least]))} of "
    told += f"{size(float(ends[WHOLE][least]))} structures)"
    differ = shares.max() > 1.1 * shares.min()
    mixed = f"; shares differ, {_percent(shares.min())} to {_percent(shares.max())}" if differ else ""
    return f"{told}{mixed}: for less than one pass, d is the amount seen, and the law does not cover the rest"


def _totals(table: Table, seen: Array) -> Array:
    """Amount of data that the run of each row has read in total [k]."""
    names = table.runs
    most: dict[str, float] = {}
    for name, value in zip(names.tolist(), seen.tolist()):
        most[name] = max(value, most.get(name, 0.0))
    return np.array([most[name] for name in names.tolist()])


def _alike(table: Table, axis: str) -> bool:
    """Whether the columns `axis` and `s` count the same thing: structures, not atoms, for instance."""
    units = [_COUNTED.search(table.names.get(name, name).lower()) for name in (axis, "s")]
    ours, seen = (unit.group() if unit else "" for unit in units)
    return ours in ("", seen) or not seen


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 1 else f"{100 * share:,.0f} %"
