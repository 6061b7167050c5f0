"""Identity of a planned run: a hash of everything that determines its results."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matscale.core.runs.config import TrainConfig

WITHOUT_EFFECT = (
    "skip_nonfinite",
    "compute.device",
    "compute.threads",
    "compute.timeout",
    "compute.sharding",
    "checkpoint",
    "plugins",
    "trackers",
    "labels",
    "log_every",
    "evaluation.structures",
    "evaluation.samples",
    "data.in_memory",
    "data.cache_graphs",
    "data.check_stress_unit",
    "data.isolated",  # without it such structures are refused
)
"""Keys that do not affect the trained model: those for the device, for kept files and for displays."""


def identity(config: TrainConfig, dataset: str, trunk: str | None = None) -> str:
    """Hash a resolved configuration to 16 hex digits; `dataset` is the hash of the data, in place of their path.

    `trunk` is the identity of the run from which a branch starts.
    """
    values = config.plain()
    for key in WITHOUT_EFFECT:
        _remove(values, key.split("."))
    values["data"]["path"] = dataset
    if trunk is not None:
        values["start"]["run"] = trunk
    elif "run" in values["start"]:
        values["start"]["run"] = str(Path(values["start"]["run"]).resolve())
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _remove(values: dict[str, Any], path: list[str]) -> None:
    *sections, last = path
    for section in sections:
        values = values.get(section, {})
    values.pop(last, None)


RUNS, TRUNKS = "runs", "trunks"
"""Folders of a study for its runs, and for trunks, which are not results themselves."""


@dataclass(frozen=True)
class Need:
    """Checkpoint of another run of the study, without which a run cannot start."""

    run: Path
    step: int


@dataclass(frozen=True)
class PlannedRun:
    """Planned run: one training with all its settings."""

    path: Path
    """The run folder, absolute."""
    config: TrainConfig
    """The resolved configuration."""
    identity: str
    labels: dict[str, Any]
    """Coordinates in the grid: architecture, size, data, seed, lr, ..."""
    parameters: dict[str, int]
    """Counts of the model's parameters, from `count_parameters`."""
    n_train: int
    """Training structures."""
    need: Need | None = None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def is_trunk(self) -> bool:
        return self.path.parent.name == TRUNKS
