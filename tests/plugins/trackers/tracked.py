"""A run that is stopped, resumed and told to a tracker."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import StoppedEarly
from matscale.core.progress import Reporter, StepStatus
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import Run
from matscale.core.train.session import train

Points = dict[tuple[str, int], float]
"""(name of a scalar, step) -> value."""


class StopAt(Reporter):
    """Asks the run to stop after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, status: StepStatus) -> None:
        if status.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def train_tracked(data: PackedDataset, folder: Path, tracker: str) -> Run:
    """12 steps in two sessions."""
    config = TrainConfig.parse(
        {
            "architecture": {"name": "fcn", "config": {"hidden": 8, "head_width": 8}},
            "data": {"path": str(data.path), "validation": 0.25},
            "batch": {"structures": 4},
            "budget": {"steps": 12},
            "log_every": 2,
            "evaluation": {"every": 4},
            "compute": {"device": "cpu"},
            "trackers": [tracker],
        }
    )
    with pytest.raises(StoppedEarly):
        train(config, folder, progress=StopAt(7))
    return train(config, folder, resume=True)


def points(run: Run) -> Points:
    """What a tracker should know, from metrics.jsonl."""
    place = ("step", "split", "time")
    return {
        (f"{row['split']}/{key}", row["step"]): value
        for row in run.metrics()
        for key, value in row.items()
        if key not in place
    }
