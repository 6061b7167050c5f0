"""Ledger of a study: a table with a row per run, as `runs.jsonl` and `runs.csv`.

It is made from the run folders, so it can be deleted and written again.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matscale.core.config import read_toml
from matscale.core.errors import ConfigError, MatscaleError
from matscale.core.files import finite, write_text
from matscale.core.runs.record import CONFIG, INFO, PLANNED, validation_loss
from matscale.core.runs.status import State, read_info, state_of
from matscale.core.study.identity import RUNS, TRUNKS, PlannedRun

JSONL, CSV = "runs.jsonl", "runs.csv"

COLUMNS = (
    "run",
    "path",
    "study",
    "identity",
    "role",
    "branch_of",
    "status",
    "reason",
    "architecture",
    "variant",
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
    "flops_before",
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
"""Columns in this order; other keys of the grid follow.

`loss` and the errors are those of the best validation, in eV units; `last_loss` is the loss of the last validation.
`branch_of` is the trunk from which the run branches; `flops_shared` and `wall_s_shared` are the part of the run's
totals that the trunk has spent; `flops_before` is the cost of the model that the run started from.
"""


def row(run: Path, state: State | None = None, planned: PlannedRun | None = None) -> dict[str, Any]:
    """Row of one run, from its folder, or from `planned` if the run has not started."""
    info = read_info(run) or {}
    labels: dict[str, Any] = dict(planned.config.labels) if planned else {}
    labels |= info.get("labels") or _planned_labels(run)
    state = state or state_of(run)
    counts = info.get("parameters") or (planned.parameters if planned else {})
    dataset, best, last = info.get("dataset") or {}, info.get("best") or {}, info.get("last") or {}
    is_compared = "pretrain" not in info  # the loss of pre-training is another quantity than that of other runs
    found = {
        "run": run.name,
        "path": str(run),
        "role": labels.pop("role", "run") if is_compared else "pretrain",
        "branch_of": Path((info.get("start") or {}).get("run") or "").name or None if "flops_shared" in info else None,
        "status": state.status,
        "reason": state.reason,
        "flops_before": (info.get("start") or {}).get("flops", 0.0) if info else None,
        "architecture": (info.get("architecture") or {}).get("name") or labels.get("architecture"),
        "parameters": counts.get("total"),
        "non_embedding": counts.get("non_embedding"),
        "dataset": dataset.get("hash"),
        "train": dataset.get("train", planned.n_train if planned else None),
        "last_loss": validation_loss(last) if last and is_compared else None,
        "loss": validation_loss(best) if best and is_compared else None,
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
        labels = read_toml(run / PLANNED).get("labels", {})
    except MatscaleError:
        return {}
    return labels if isinstance(labels, dict) else {}


def write(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `runs.jsonl` and `runs.csv`, each replaced atomically."""
    rows = [finite(dict(r)) for r in rows]
    write_text(folder / JSONL, "".join(json.dumps(r, allow_nan=False) + "\n" for r in rows))
    write_text(folder / CSV, as_csv(rows))


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as CSV with a heading; unknown values are empty."""
    columns = list(dict.fromkeys([*COLUMNS, *(key for r in rows for key in r)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def spent(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Total FLOPs and device-hours of the runs of these rows. The cost of a trunk counts once for all its branches."""
    rows = list(rows)
    there, shared = {row["run"] for row in rows}, dict[str, dict[str, float]]()
    total = {"flops": 0.0, "device_hours": 0.0}
    for row in rows:
        whole, part = _cost(row, ""), _cost(row, "_shared")
        total = {key: total[key] + max(whole[key] - part[key], 0.0) for key in total}  # not all may have started
        if row.get("branch_of") not in (None, *there):
            others = shared.setdefault(row["branch_of"], part)
            shared[row["branch_of"]] = {key: max(others[key], part[key]) for key in part}
    return {key: total[key] + sum(part[key] for part in shared.values()) for key in total}


def _cost(row: Mapping[str, Any], which: str) -> dict[str, float]:
    hours = (row.get(f"wall_s{which}") or 0.0) * (row.get("world_size") or 1) / 3600
    return {"flops": row.get(f"flops{which}") or 0.0, "device_hours": hours}


def run_folders(path: Path) -> Iterator[Path]:
    """Find run folders: `path` itself if it is a run, else run folders in `path`, or in the parts of a study.

    The parts of a study are `runs` and `trunks`.

    Raises ConfigError if there is no folder `path`.
    """
    if not path.is_dir():
        raise ConfigError(f"{path}: there is no such folder. `matscale sweep` makes a study, `matscale train` a run.")
    if _is_run(path):
        yield path
        return
    for folder in (path, path / RUNS, path / TRUNKS):
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        yield from (child for child in inside if child.is_dir() and _is_run(child))


def _is_run(path: Path) -> bool:
    return any((path / name).exists() for name in (CONFIG, PLANNED, INFO))
