"""Read a table for laws from any source: run folders, studies, globs, files, or rows from Python."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matscale.core.errors import ConfigError, DataError, did_you_mean
from matscale.core.scaling.tables.columns import plain_name
from matscale.core.scaling.tables.from_runs import ERRORS, find_runs, read_runs
from matscale.core.scaling.tables.from_table import KNOWN, SUFFIXES, read_table, table_of
from matscale.core.scaling.tables.table import Table

Source = Table | str | Path | Sequence[str | Path] | Sequence[Mapping[str, Any]]


def read(
    source: Source,
    columns: Mapping[str, str] | None = None,
    *,
    target: str = "loss",
    where: Mapping[str, str] | None = None,
    curves: bool = False,
) -> Table:
    """Read a table for laws from `source`; `target` is the error to fit: loss, energy, forces, stress, or a column.

    Raises ConfigError for a missing path, or if runs and tables are mixed.

    >>> table = read([{"model": "schnet", "params": n, "val_loss": 40 * n**-0.3} for n in (1e3, 1e4, 1e5)])
    >>> len(table), table.names["n"], table["n"].tolist()
    (3, 'params', [1000.0, 10000.0, 100000.0])
    """
    columns = dict(columns or {})
    for ours in columns:
        if ours not in KNOWN:
            meant = next((name for name, usual in KNOWN.items() if plain_name(ours) in usual), None)
            hint = f"Write --map {meant}={columns[ours]}." if meant else did_you_mean(ours, KNOWN)
            raise ConfigError(
                f"--map {ours}={columns[ours]}: {ours!r} is not a name of matscale's; write NAME=YOUR_COLUMN. {hint}"
            )
    if target != "loss":
        columns.setdefault("loss", ERRORS.get(target, target))
    if isinstance(source, Table):
        _refuse_other_columns(source, columns, where)
        return source
    if not isinstance(source, str | Path):
        items = list(source)
        if items and isinstance(items[0], Mapping):
            return table_of(items, columns, where)  # type: ignore[arg-type]
    else:
        items = [source]
    paths = [path for item in items for path in expand(str(item))]
    files = [path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file()]
    if files and len(files) < len(paths):
        raise ConfigError(
            "Runs and tables cannot be mixed in one fit, since their losses may be different quantities. "
            "Give runs, or one table."
        )
    if len(files) > 1:
        raise ConfigError(f"{len(files)} tables were given, whose columns may mean different things. Give one table.")
    if files:
        return read_table(files[0], columns, where)
    if where:
        raise ConfigError("--where works only with a table. To choose runs, name their folders.")
    runs = sorted({run for path in paths for run in find_runs(path)})
    if not runs:
        raise DataError(
            f"{', '.join(map(str, paths))}: there is no run folder (with run.json) and no table "
            f"({', '.join(SUFFIXES)}). Give a folder of runs or a table."
        )
    return read_runs(runs, columns, curves)


def _refuse_other_columns(table: Table, columns: Mapping[str, str], where: Mapping[str, str] | None) -> None:
    other = [f"{ours}={theirs}" for ours, theirs in columns.items() if table.names.get(ours) != theirs]
    if other or where:
        asked = ", ".join([*other, *(f"{key} = {value}" for key, value in (where or {}).items())])
        raise ConfigError(
            f"The source is a Table, whose columns and rows are fixed: it cannot be read again with {asked}. Give the "
            "rows or the file from which it was made."
        )


def expand(item: str) -> list[Path]:
    if Path(item).exists():
        return [Path(item)]
    found = sorted(glob.glob(item))
    if not found:
        raise ConfigError(f"{item}: there is no such run, folder or table.")
    return [Path(name) for name in found]
