"""Rows for laws from measured properties: one per run, with its sizes and the errors of its properties."""

from __future__ import annotations

from typing import Any

from matscale.core.errors import DataError
from matscale.core.properties.measure import Results, columns
from matscale.core.runs.record import Run
from matscale.core.scaling.tables.from_runs import read_runs

SIZES = ("n", "d", "c", "u", "s")


def row_of(run: Run, step: int, results: Results, reference: Results | None) -> tuple[dict[str, Any], str]:
    """Make the row of a run: `run`, `arch`, `seed`, `step`, the sizes that `fit` reads of a run, and error columns.

    A run that no law can use, such as an imported one, has no sizes; the text says why, and is empty otherwise.
    """
    row: dict[str, Any] = {
        "run": str(run.path), "arch": run.config.architecture.name, "seed": run.config.seed, "step": step,
    }  # fmt: skip
    reason = ""
    try:
        table = read_runs([run.path], {})
        last = len(table) - 1
        row |= {name: float(table[name][last]) for name in SIZES if table.has(name)}
        row["arch"] = str(table.words["arch"][last])
    except (DataError, IndexError) as error:
        reason = f"{run.path}: the row for laws has no sizes. {error}"
    return {**row, **columns(results, reference)}, reason
