"""Errors of simple baselines for the runs that a law is fitted to, on the same validation part.

Baselines are fitted on the training part of the run with most data, where they are best. Their errors are measured once
and kept in that run's folder as `baseline_errors.json`.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from matscale.core.config import read_toml
from matscale.core.errors import DataError, MatscaleError
from matscale.core.files import write_json
from matscale.core.parsing import read_json
from matscale.core.runs.files import CONFIG
from matscale.core.runs.info import OF, baselines_for, read_info, read_own
from matscale.core.scaling.tables.table import Table
from matscale.core.sealing import DIGEST, DamagedRecord, sealed

FILE = "baseline_errors.json"
SIGNED = frozenset({"forces_cos"})
"""Keys in the output of `matscale baselines` that are not errors and may be negative."""

Errors = dict[str, dict[str, float]]


def with_baselines(table: Table) -> tuple[Table, str]:
    """Add the errors of baselines to a table of runs; also return the reason if there are none, else an empty text."""
    folders = [Path(folder) for folder in table.facts.get("folders", ())]
    if table.baselines or not folders:
        return table, "" if table.baselines else "no baselines are known for a table: give them with --baselines FILE"
    try:
        return replace(table, baselines=measured(_largest(folders))), ""
    except MatscaleError as error:
        return table, f"no baselines: {error}"


def read_baselines(path: Path) -> Errors:
    """Read the errors of baselines from a JSON file.

    The file holds {name: {error: value}}, as `matscale baselines --json` prints it, or {name: loss}.
    """
    values = read_json(path, hint="`matscale baselines --data D --json` makes such a file.")
    if not isinstance(values, Mapping):
        raise DataError(
            f"{path}: holds {type(values).__name__} instead of an object with baselines by name. "
            "Make the file with: matscale baselines --data D --json."
        )
    return {str(name): _errors(path, str(name), errors) for name, errors in values.items() if name not in (DIGEST, OF)}


def _errors(path: Path, name: str, errors: Any) -> dict[str, float]:
    found = errors if isinstance(errors, Mapping) else {"loss": errors}
    numbers = {str(k): float(v) for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    for key, value in numbers.items():
        if not (math.isfinite(value) and (value >= 0 or key in SIGNED)):
            raise DataError(
                f"{path}: baseline {name!r} has {key} = {value}, but an error must be finite and not negative. Measure "
                "again: matscale baselines --data D --json."
            )
    if not numbers:
        raise DataError(
            f"{path}: baseline {name!r} has no number: {errors!r}. Give a number, or an object with a number for "
            "each error."
        )
    return numbers


def _largest(folders: list[Path]) -> Path:
    train = {folder: (read_info(folder).get("dataset") or {}).get("train") or 0 for folder in folders}
    largest = [folder for folder in folders if train[folder] == max(train.values())]
    return next((folder for folder in largest if (folder / FILE).exists()), largest[0])


def measured(folder: Path) -> Errors:
    """Errors of the baselines on a run's validation part, read from the run's folder or, if absent, measured now."""
    path, of = folder / FILE, baselines_for(read_info(folder), read_toml(folder / CONFIG))
    if path.exists():
        try:
            return {name: _errors(path, name, errors) for name, errors in read_own(path, of).items()}
        except DamagedRecord as error:
            warnings.warn(f"{error} It is measured again.", stacklevel=2)
    from matscale.core.baselines import evaluate_baselines, passes  # start-up: torch
    from matscale.core.inference.compare import baselines_of, dataset_of, rows_of  # start-up: torch
    from matscale.core.runs.record import Run  # start-up: torch

    run = Run.open(folder)
    dataset = dataset_of(run)
    rows = rows_of(run, dataset, "validation")
    errors = evaluate_baselines(baselines_of(run), passes(dataset, rows))
    if os.access(folder, os.W_OK):
        write_json(path, sealed({**errors, OF: of}))
    return errors
