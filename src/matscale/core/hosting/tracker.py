"""Trackers: programs that draw the metrics of a run. They are told what metrics.jsonl is told, which stays the record.

A tracker knows nothing of training: it is opened on a run folder and given numbers. It may raise whatever it likes; it
is then switched off and the run goes on (`matscale.core.hosting.observers`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from matscale.core.runs.record import Run


class Log(Protocol):
    """A tracker at work on one run."""

    def log(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """The metrics of a row: `train/loss`, `validation/forces_mae`, ...; `time` in seconds since 1970."""
        ...

    def close(self, status: str) -> None:
        """The run is `completed`, `stopped` or `failed`; what was told must be on the disk when this returns."""
        ...


@dataclass(frozen=True)
class Tracker:
    """A program to tell metrics. Returned by the hook `register_trackers`."""

    name: str
    """What a user types: `--track tensorboard`."""
    summary: str
    """One line."""
    open: Callable[[Run, int], Log]
    """(run, step) -> a log of a run that continues after `step`, 0 for a new one.

    A resumed run goes on in the log that it had; after a kill, what that holds of steps after the checkpoint is told
    again. Files belong in a folder of their own in `run.path`.
    """
    modules: tuple[str, ...] = ()
    """What it imports when it is opened; looked for before anything is trained."""
