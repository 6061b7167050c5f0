"""Forecasts for runs in progress from finished runs of the same folder, and a list of runs that can be stopped early.

A run can be stopped if its predicted final loss lies above that of a finished run of the same size and data with
another learning rate or batch size. A finished run that differs only in its seed does not count: leaving out bad seeds
would bias a law.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from matscale.core.config import read_toml
from matscale.core.errors import MatscaleError
from matscale.core.runs.files import CONFIG, called
from matscale.core.runs.info import read_info
from matscale.core.scaling.curves.forecast import DIALS, Forecast, forecast
from matscale.core.scaling.curves.normalised import Curve
from matscale.core.scaling.tables.from_runs import validations_of
from matscale.core.scaling.tables.table import SAME

CERTAIN = 0.99
"""Level of the forecast's interval for the decision to stop a run; it is high, since a run is checked many times."""


@dataclass(frozen=True)
class Running:
    """Training curve of a run, finished or not, with the group of runs that it can be compared with."""

    path: Path
    group: str
    """Architecture, schedule, data and loss; forecasts use only runs of one group"""
    curve: Curve
    is_finished: bool


@dataclass(frozen=True)
class Hopeless:
    """Run that can be stopped: its final loss will lie above that of a finished run of the same size."""

    path: Path
    forecast: Forecast
    better: Path
    loss: float
    """Final loss of the better run"""

    @property
    def text(self) -> str:
        seen = self.forecast
        return (
            f"{self.path.name}: at {seen.share:.0%} its final loss is predicted to be {seen.predicted:.4g} "
            f"({seen.low:.4g} to "
            f"{seen.high:.4g}, 99 %); {self.better.name} of the same size ended at {self.loss:.4g}"
        )


def read_running(folders: Sequence[Path]) -> list[Running]:
    """Read the training curves of those `folders` that hold a run with validations.

    Trunks of cooldowns, pre-training runs and damaged runs are left out.
    """
    found = []
    for folder in folders:
        try:
            info, config = read_info(folder), read_toml(folder / CONFIG)
            rows = [row for row in validations_of(folder) if row.get("structures", 0) > 0 and row.get("loss")]
            run = _running(folder, info, config, rows)
        except (MatscaleError, OSError, KeyError, TypeError, ValueError):
            continue  # a damaged run: the sweep, or `runs list`, reports it
        found += [] if run is None else [run]
    return found


def _running(
    folder: Path, info: Mapping[str, Any], config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Running | None:
    labels = info.get("labels") or {}
    if not rows or "pretrain" in info or "imported" in info or labels.get("role") == "trunk":
        return None
    is_finished = info["status"] == "completed"
    share = np.array([row["step"] / rows[-1]["step"] if is_finished else _share(row, config["budget"]) for row in rows])
    size = {
        "n": float(info["parameters"]["non_embedding"]),
        "d": float(info["dataset"]["train"]),
        "s": float(rows[-1]["structures"] / share[-1]),
        "lr": float(config["optimizer"]["lr"]),
    }
    if batch := (info.get("global_batch") or {}).get("structures"):
        size["batch"] = float(batch)
    data = {key: value for key, value in config["data"].items() if key not in ("fraction", "count")}
    group = [called(info["architecture"]["name"], labels.get("variant")), config["schedule"], config["loss"], data]
    curve = Curve(str(folder), size, share, np.log([float(row["loss"]) for row in rows]))
    return Running(folder, json.dumps([*group, info["dataset"]["hash"]], sort_keys=True), curve, is_finished)


def _share(row: Mapping[str, Any], budget: Mapping[str, Any]) -> float:
    """Share of a run that is done: the largest used share of any limit of its budget.

    The schedule follows this share.
    """
    used = (("step", "steps"), ("epoch", "epochs"), ("flops", "max_flops"), ("wall_s", "max_time"))
    return max(float(row[key]) / float(budget[limit]) for key, limit in used if budget.get(limit) is not None)


def forecasts(runs: Sequence[Running], level: float = 0.95) -> list[tuple[Running, Forecast]]:
    """Forecast the final loss of each run that is not finished, with intervals of this `level`."""
    return [
        (run, forecast(run.curve, [o.curve for o in runs if o.is_finished and o.group == run.group], level))
        for run in runs
        if not run.is_finished
    ]


def hopeless(runs: Sequence[Running]) -> list[Hopeless]:
    """Find runs that can be stopped early, since a finished run of the same size is better than they can become."""
    found = []
    for run, seen in forecasts(runs, CERTAIN):
        rivals = [one for one in runs if one.is_finished and one.group == run.group and _rival(run.curve, one.curve)]
        best = min(rivals, key=lambda one: one.curve.logs[-1], default=None)
        if best is not None and not seen.reason and np.log(seen.low) > best.curve.logs[-1]:
            found.append(Hopeless(run.path, seen, best.path, float(np.exp(best.curve.logs[-1]))))
    return found


def _rival(one: Curve, other: Curve) -> bool:
    if one.size.keys() != other.size.keys():
        return False
    differ = {axis for axis in one.size if abs(np.log(one.size[axis] / other.size[axis])) > SAME}
    return bool(differ & {*DIALS}) and differ <= {*DIALS}
