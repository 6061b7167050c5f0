"""Trials of learning rates and batch sizes, read from run folders or from a table."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from matscale.core.errors import ConfigError, DataError, did_you_mean
from matscale.core.runs.config import BudgetConfig
from matscale.core.runs.files import called
from matscale.core.runs.info import read_info
from matscale.core.scaling.dials.optima import Trial
from matscale.core.scaling.tables.columns import choose, factor, plain_name
from matscale.core.scaling.tables.from_runs import config_of, find_runs, read_runs
from matscale.core.scaling.tables.from_table import SUFFIXES
from matscale.core.scaling.tables.numerals import Cell, Numerals
from matscale.core.scaling.tables.sources import expand
from matscale.core.scaling.tables.table import shown
from matscale.core.scaling.tables.tabular import read_records
from matscale.core.study.lr_law import structures_seen

DIALS = {
    "lr": ("lr", "learning_rate", "peak_lr", "max_lr", "optimizer_lr"),
    "batch": ("batch", "batch_size", "bsz", "bs", "global_batch_size", "global_batch", "batch_structures"),
}
"""Headings of columns that are recognised as each hyperparameter."""


def read_trials(
    sources: Sequence[str], columns: Mapping[str, str], architecture: str | None = None
) -> tuple[str, list[Trial]]:
    """Read trials from run folders or a table: returns the architecture and the trials, averaged over seeds.

    There is one trial for each n, d, learning rate and batch size. Raises ConfigError or DataError if there are no
    trials, or trials of several architectures.
    """
    paths = [path for source in sources for path in expand(source)]
    files = [path for path in paths if path.is_file() and path.suffix.lower() in SUFFIXES]
    if files and (len(paths) > 1):
        raise ConfigError("Give run folders or one table: columns of several tables may mean different things.")
    rows = _of_table(files[0], columns) if files else _of_runs(paths, columns)
    names = sorted({row["arch"] for row in rows})
    if architecture is not None and architecture in names:
        rows = [row for row in rows if row["arch"] == architecture]
    elif architecture is not None and names != [""]:
        raise ConfigError(f"There are no runs of {architecture!r}. {did_you_mean(architecture, names)}")
    elif len(names) > 1:
        raise ConfigError(
            f"There are {len(names)} architectures: {', '.join(names[:5])}. Choose one, for example --arch {names[0]}."
        )
    elif architecture is None and names == [""]:
        raise ConfigError(f"{paths[0]}: no column names the architecture. Say which architecture it is: --arch NAME.")
    return architecture or names[0], _means(rows)


def _means(rows: Sequence[Mapping[str, Any]]) -> list[Trial]:
    same: dict[tuple[float, ...], list[float]] = {}
    for row in rows:
        same.setdefault(tuple(-1.0 if row[key] is None else row[key] for key in ("n", "d", "lr", "batch")), []).append(
            row["loss"]
        )
    nan = math.nan
    return [
        Trial(n, nan if d < 0 else d, lr, nan if batch < 0 else batch, float(np.mean(losses)))
        for (n, d, lr, batch), losses in same.items()
    ]


def _of_runs(paths: Sequence[Path], columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """Read trials from completed and diverged runs.

    n is the number of non-embedding parameters, d the number of structures seen.
    """
    if columns:
        raise ConfigError(
            "--map works only with a table. For runs, n is the number of non-embedding parameters and d the number of "
            "structures seen. Leave out --map."
        )
    folders = sorted({run for path in paths for run in find_runs(path)})
    listed = ", ".join(map(str, paths))
    if not folders:
        raise DataError(f"{listed}: there is no run. `matscale tune --params` trains some.")
    table = read_runs(folders, {})  # refuses losses that are different quantities
    diverged = {one.row for one in table.excluded if one.reason.startswith("diverged")}
    found = []
    for folder in sorted({*table.words["run"].tolist(), *diverged}):
        info = read_info(Path(folder))
        config = config_of(Path(folder), info)
        batch = (info.get("global_batch") or {}).get("structures")
        # A run that diverged saw less data than planned. It limits the best rate for the planned amount,
        # which is its d.
        seen = info["structures"]
        if folder in diverged:
            budget = BudgetConfig.parse(config["budget"], f"{folder}: budget")
            seen = structures_seen(budget, int(info["dataset"]["train"]), batch) or seen
        found.append({
            "arch": called(info["architecture"]["name"], (info.get("labels") or {}).get("variant")),
            "n": float(info["parameters"]["non_embedding"]),
            "d": float(seen),
            "lr": float(config["optimizer"]["lr"]),
            "batch": None if batch is None else float(batch),
            "loss": math.inf if folder in diverged else float(info["last"]["loss"]),
        })  # fmt: skip
    return found


def _of_table(path: Path, columns: Mapping[str, str]) -> list[dict[str, Any]]:
    records, _ = read_records(path)
    if not records:
        raise DataError(f"{path}: has no rows. A table needs one row per loss.")
    headings = list(dict.fromkeys(key for record in records for key in record))
    names = {dial: columns.get(dial) or _usual(headings, dial) for dial in DIALS}
    for dial, name in names.items():
        if dial in columns and name not in headings:
            raise ConfigError(f"{path}: has no column {name!r} (for {dial}). {did_you_mean(str(name), headings)}")
    if names["lr"] is None:
        listed = ", ".join(headings[:30])
        raise DataError(
            f"{path}: no column is known to be the learning rate. Say which it is: --map lr=COLUMN. Columns: {listed}."
        )
    given = {ours: theirs for ours, theirs in columns.items() if ours not in DIALS}
    choice = choose(str(path), [h for h in headings if h not in names.values()], given).names
    if "n" not in choice:
        raise DataError(f"{path}: no column is known to be the number of parameters. Say which it is: --map n=COLUMN.")
    taken = {ours: choice.get(ours) for ours in ("n", "d", "loss")} | names
    texts = [
        Cell(f"{path.name} row {k + 1}", name, record[name])
        for k, record in enumerate(records)
        for name in taken.values()
        if name is not None and isinstance(record.get(name), str)
    ]
    numerals = Numerals.of(texts)
    factors = {ours: factor(str(path), ours, name, ours in given) for ours, name in taken.items() if name is not None}
    rows = []
    for k, record in enumerate(records):
        place = f"{path.name} row {k + 1}"
        row: dict[str, Any] = dict.fromkeys(taken)
        for ours, name in taken.items():
            if name is not None:
                row[ours] = _number(place, name, record.get(name), numerals, ours == "loss") * factors[ours]
        rows.append({**row, "arch": str(record.get(choice["arch"], "")) if "arch" in choice else ""})
    return rows


def _usual(headings: Sequence[str], dial: str) -> str | None:
    known = {re.sub("_+", "_", plain_name(heading)): heading for heading in reversed(headings)}
    return next((known[name] for name in DIALS[dial] if name in known), None)


def _number(place: str, name: str, cell: Any, numerals: Numerals, is_loss: bool) -> float:
    """Read a positive number from a cell; a loss that is not finite becomes infinity. Raises DataError."""
    try:
        value = numerals.value(cell) if isinstance(cell, str) else float(cell)
    except (TypeError, ValueError, OverflowError):
        told = f"{place}: {name} is {shown(cell)}, not a number"
        raise DataError(f"{told}. Correct the row, or map another column.") from None
    if is_loss and not math.isfinite(value):
        return math.inf
    if not (value > 0 and math.isfinite(value)):
        raise DataError(f"{place}: {name} is {shown(cell)}; a positive number is needed. Correct or drop the row.")
    return value
