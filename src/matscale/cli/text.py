"""Text tables with aligned columns."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from matscale.core.inference.columns import Column, columns


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Format `rows` as a text table with aligned columns; the first row has the headings.

    Columns whose numbers are in `right` are right-aligned.
    """
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(cell.rjust(w) if k in right else cell.ljust(w) for k, (cell, w) in enumerate(zip(row, widths)))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


GPA = 160.2176634
"""Factor from eV/Å³ to GPa."""

COLUMNS = columns(
    {
        "loss": "loss",
        "energy MAE [meV/atom]": "energy_mae",
        "forces MAE [meV/Å]": "forces_mae",
        "stress MAE [meV/Å³]": "stress_mae",
    }
) | {"[GPa]": Column("stress_mae", GPA, "{:.3f}")}
"""Columns of the table of errors, by their headings."""


def errors_table(models: Mapping[str, Mapping[str, float]]) -> str:
    """Format the errors of models (in eV units, by name) as a text table; an error that was not measured is a dash."""
    rows = [["model", *COLUMNS]]
    for name, metrics in models.items():
        rows.append([name, *(one.cell(metrics) for one in COLUMNS.values())])
    return aligned(rows, right=range(1, len(rows[0])))


def errors_json(models: Mapping[str, Mapping[str, float]]) -> str:
    """Format the errors of models (in eV units, by name) as JSON; an error that is not finite is null."""
    finite = {n: {k: v if math.isfinite(v) else None for k, v in m.items()} for n, m in models.items()}
    return json.dumps(finite, indent=2, ensure_ascii=False, allow_nan=False)


def parameter_counts(counts: Mapping[str, int]) -> str:
    """Format the counts of a model's parameters, and say which of them is the N of a law.

    >>> parameter_counts({"total": 3012, "trainable": 3012, "embedding": 2725, "non_embedding": 287})
    '3,012 total, 3,012 trainable, 2,725 embedding, 287 non-embedding (the N of laws)'
    """
    return ", ".join(f"{count:,} {word.replace('_', '-')}" for word, count in counts.items()) + " (the N of laws)"


def size_of(n_bytes: float) -> str:
    """Format a number of bytes: 3 GB, 21 MB, 4 kB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes / 1e3:.3g} kB"


def duration(seconds: float) -> str:
    """Format a duration: 2 h 5 min, 3 min 20 s, 12.5 s.

    >>> duration(42), duration(200), duration(4000)
    ('42 s', '3 min 20 s', '1 h 6 min')
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    if minutes < 60:
        return f"{int(minutes)} min {int(seconds % 60)} s"
    return f"{int(minutes // 60):,} h {int(minutes % 60)} min"
