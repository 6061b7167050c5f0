"""A run that a study wants: what it is, where it goes, what must be there before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matscale.core.runs.config import TrainConfig

RUNS, TRUNKS = "runs", "trunks"
"""Folders of a study: its runs, and the long ones that runs branch off, which are no results by themselves."""


@dataclass(frozen=True)
class Need:
    """A checkpoint of another run of the study, without which a run cannot begin."""

    run: Path
    step: int


@dataclass(frozen=True)
class PlannedRun:
    """One training, decided in full."""

    path: Path
    """The run folder, absolute."""
    config: TrainConfig
    """Resolved."""
    identity: str
    labels: dict[str, Any]
    """Its place in the grid: architecture, size, data, seed, lr, ..."""
    parameters: dict[str, int]
    """By `count_parameters`."""
    n_train: int
    """Training structures."""
    need: Need | None = None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def is_trunk(self) -> bool:
        return self.path.parent.name == TRUNKS
