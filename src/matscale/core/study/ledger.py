"""What is in a study's folder: a row per run, as `runs.jsonl` and `runs.csv`, for people, pandas and jq.

The ledger is read off the run folders, so it can be lost without loss.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from matscale.core.config import read_toml
from matscale.core.errors import ConfigError, MatscaleError
from matscale.core.files import finite, write_text
from matscale.core.study.outcome import State, read_info, state_of
from matscale.core.study.planned import RUNS, TRUNKS, PlannedRun
from matscale.core.train.record import CONFIG, PLANNED, validation_loss

JSONL, CSV = "runs.jsonl", "runs.csv"

COLUMNS = (
    "run",
    "path",
    "study",
    "identity",
    "role",
    "status",
    "reason",
    "architecture",
    "size",
    "parameters",
    "non_embedding",
    "dataset",
    "train",
    "fraction",
    "count",
    "seed",
    "lr",
    "steps",
    "epochs",
    "structures",
    "atoms",
    "edges",
    "flops",
    "flops_shared",
    "validation_flops",
    "wall_s",
    "wall_s_shared",
    "device",
    "world_size",
    "loss",
    "energy_mae",
    "forces_mae",
    "stress_mae",
    "last_loss",
)
"""In this order; keys of the grid that are not among them follow. `loss` and the errors are those of the best
validation, in eV units; `last_loss` is that of the last."""


def row(run: Path, state: State | None = None, planned: PlannedRun | None = None) -> dict[str, Any]:
    """One run, from its folder; `planned` says what is known of one that has not begun."""
    info = read_info(run) or {}
    labels = dict(planned.labels) if planned else {}
    labels |= info.get("labels") or _planned_labels(run)
    state = state or state_of(run)
    counts = info.get("parameters") or (planned.parameters if planned else {})
    dataset, best, last = info.get("dataset") or {}, info.get("best") or {}, info.get("last") or {}
    found = {
        "run": run.name,
        "path": str(run),
        "role": labels.pop("role", "run"),
        "status": state.status,
        "reason": state.reason,
        "architecture": (info.get("architecture") or {}).get("name") or labels.get("architecture"),
        "parameters": counts.get("total"),
        "non_embedding": counts.get("non_embedding"),
        "dataset": dataset.get("hash"),
        "train": dataset.get("train", planned.n_train if planned else None),
        "last_loss": validation_loss(last) if last else None,
        "loss": validation_loss(best) if best else None,
    }
    found |= {key: best.get(key) for key in ("energy_mae", "forces_mae", "stress_mae")}
    return {
        **dict.fromkeys(COLUMNS),
        **labels,
        **{k: info[k] for k in COLUMNS if k in info and k not in found},
        **{k: v for k, v in found.items() if k in COLUMNS},
    }


def _planned_labels(run: Path) -> dict[str, Any]:
    try:
        labels: dict[str, Any] = read_toml(run / PLANNED).get("labels", {})
    except MatscaleError:
        return {}
    return labels


def write(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace both files, each in one move."""
    rows = [finite(dict(r)) for r in rows]
    write_text(folder / JSONL, "".join(json.dumps(r, allow_nan=False) + "\n" for r in rows))
    columns = list(dict.fromkeys([*COLUMNS, *(key for r in rows for key in r)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / CSV, text.getvalue())


def run_folders(path: Path) -> Iterator[Path]:
    """The runs in `path`: itself if it is one, else those in it, or in `runs` and `trunks` of a study.

    Raises ConfigError if there is no such folder.
    """
    if not path.is_dir():
        raise ConfigError(f"{path}: there is no such folder. `matscale sweep` makes studies, `matscale train` runs.")
    if _is_run(path):
        yield path
        return
    for folder in (path, path / RUNS, path / TRUNKS):
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        yield from (child for child in inside if child.is_dir() and _is_run(child))


def _is_run(path: Path) -> bool:
    return (path / CONFIG).exists() or (path / PLANNED).exists()
