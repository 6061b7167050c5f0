"""Records of runs for a report: configuration, status, and a training curve with few points, to keep pages small."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from matscale.core.errors import DataError, MatscaleError
from matscale.core.runs.files import CONFIG, INFO, METRICS, Rows
from matscale.core.runs.info import changed_rows, read_info
from matscale.core.runs.status import state_of
from matscale.core.scaling.tables.from_runs import NEEDED, config_of
from matscale.core.scaling.tables.sources import expand
from matscale.core.scaling.tables.table import Excluded
from matscale.core.study.ledger import run_folders
from matscale.core.units import by_number

ALONG = {
    "flops": "training FLOPs",
    "structures": "structures seen",
    "epoch": "epochs",
    "wall_s": "seconds",
}
"""Labels of the quantities that can be the x axis of a training curve, by their keys in metrics.jsonl."""
MEASURED = {
    "loss": ("validation loss", 1.0),
    "train": ("training loss", 1.0),
    "energy_mae": ("energy MAE [meV/atom]", 1e3),
    "forces_mae": ("forces MAE [meV/Å]", 1e3),
    "stress_mae": ("stress MAE [meV/Å³]", 1e3),
}
"""Label of each quantity that can be the y axis of a training curve, and the factor from eV units."""
ROWS_SHOWN = 60_000
"""Largest number of points of all curves together."""


@dataclass(frozen=True)
class RunRecord:
    """Records of one run for a report: `info` is run.json, `config` is config.toml."""

    path: Path
    name: str
    """Path of the run below the folder that all runs share."""
    status: str
    reason: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    curve: Mapping[str, list[float | None]] = field(default_factory=dict)
    """Values at the validations that are shown, by the keys of `ALONG` and `MEASURED`."""
    validations: Sequence[Mapping[str, Any]] = ()
    """All validations, each with the keys that laws need"""

    @property
    def architecture(self) -> str:
        return str((self.info.get("architecture") or {}).get("name") or "unknown")

    @property
    def n(self) -> float | None:
        """Number of parameters without embeddings."""
        return _positive((self.info.get("parameters") or {}).get("non_embedding"))

    @property
    def d(self) -> float | None:
        """Number of structures in the training part."""
        return _positive((self.info.get("dataset") or {}).get("train"))

    @property
    def last(self) -> Mapping[str, Any]:
        """Row of the last validation; empty before the first validation."""
        return self.info.get("last") or {}

    def number(self, key: str) -> float | None:
        """Total in run.json, such as `flops`; None unless it is a positive number."""
        return _positive(self.info.get(key))


@dataclass(frozen=True)
class Records:
    """Records of all runs in the order of their paths, by number, and the folders that could not be read."""

    runs: tuple[RunRecord, ...]
    damaged: tuple[Excluded, ...] = ()

    def index(self) -> dict[str, int]:
        """Position of each run in the report, by the path of the run."""
        return {str(run.path): k for k, run in enumerate(self.runs)}


def folders_of(sources: Sequence[str]) -> list[Path]:
    """Find all run folders in `sources` (runs, folders, globs, studies), sorted by path, sizes as numbers.

    Raises ConfigError for a missing path, and DataError if there is no run.
    """
    paths = [path for source in sources for path in expand(source)]
    found: set[Path] = set()
    for path in paths:
        if path.is_file():
            raise DataError(f"{path}: is a file. A report shows run folders; `matscale fit {path}` reads tables.")
        found |= set(run_folders(path))
        found |= {info.parent for info in path.rglob(INFO) if not info.parent.name.startswith(".")}
    if not found:
        raise DataError(
            f"{', '.join(map(str, paths))}: there is no run here (no {INFO}). `matscale train` and `matscale sweep` "
            "make runs."
        )
    return sorted(found, key=lambda path: by_number(str(path)))


def read_records(folders: Sequence[Path]) -> Records:
    """Read the records of run folders. A folder that cannot be read is listed as damaged."""
    names = short_names(folders)
    n_points = int(np.clip(ROWS_SHOWN // max(len(folders), 1), 20, 200))
    runs, damaged = [], []
    for folder, name in zip(folders, names):
        try:
            runs.append(_record(folder, name, n_points))
        except (MatscaleError, OSError, KeyError, TypeError, ValueError, OverflowError) as error:
            damaged.append(Excluded(str(folder), str(error)))
    return Records(tuple(runs), tuple(damaged))


def short_names(folders: Sequence[Path]) -> list[str]:
    """Shorten paths of runs to the part below the folder that they share; a single run gets its folder's name."""
    if len(folders) == 1:
        return [folders[0].resolve().name]
    common = os.path.commonpath([str(folder.absolute()) for folder in folders])
    return [folder.name if str(folder.absolute()) == common else os.path.relpath(folder, common) for folder in folders]


def _record(folder: Path, name: str, n_points: int) -> RunRecord:
    state = state_of(folder)
    if not (folder / INFO).exists() and not (folder / CONFIG).exists():
        return RunRecord(folder, name, state.status, state.reason)
    info = read_info(folder)
    config = config_of(folder, info)
    if state.status != "running" and (reason := changed_rows(folder, info)):
        raise DataError(reason)
    validations = _validations(folder)
    slim = [{key: value for key, value in row.items() if key in NEEDED} for row in validations]
    return RunRecord(folder, name, state.status, state.reason, info, config, _curve(validations, n_points), slim)


def _validations(folder: Path) -> list[dict[str, Any]]:
    """Read the validation rows of a run; `train` in each is the mean training loss since the row before."""
    kept: list[dict[str, Any]] = []
    losses: list[float] = []
    for row in Rows(folder / METRICS):
        loss = _positive(row.get("loss"))
        if row.get("split") == "train" and loss is not None:
            losses.append(loss)
        elif row.get("split") == "validation":
            kept.append({**row, "train": sum(losses) / len(losses) if losses else None})
            losses = []
    return kept


def _curve(validations: Sequence[Mapping[str, Any]], n_points: int) -> dict[str, list[float | None]]:
    chosen = [validations[k] for k in thin(len(validations), n_points)]
    columns = {key: [_rounded(row.get(key)) for row in chosen] for key in ALONG}
    return columns | {key: [_rounded(row.get(key), factor) for row in chosen] for key, (_, factor) in MEASURED.items()}


def thin(n: int, n_points: int) -> list[int]:
    """Choose at most `n_points` of the positions 0 to n - 1, the first and the last included.

    Half of them are evenly spaced, the other half evenly spaced in the logarithm.

    >>> thin(1000, 8)
    [0, 9, 99, 333, 666, 999]
    """
    if n <= n_points:
        return list(range(n))
    half = max(n_points // 2, 1)
    even, early = np.linspace(0, n - 1, half), np.geomspace(1, n, n_points - half) - 1
    return sorted({round(k) for k in (*even, *early)})


def _positive(value: Any) -> float | None:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
    return number if 0 < number < float("inf") else None


def _rounded(value: Any, factor: float = 1.0) -> float | None:
    number = _positive(value)
    return None if number is None else float(f"{number * factor:.5g}")
