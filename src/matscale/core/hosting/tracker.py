"""Experiment trackers: programs that display the metrics of a run, the same as in metrics.jsonl.

A tracker is opened on a run folder and receives numbers; it needs no knowledge of training. If it raises an error, it
is switched off and the run goes on (`matscale.core.hosting.observers`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from matscale.core.runs.record import Run


class Log(Protocol):
    """Open log of a tracker for one run."""

    def log(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """Log the metrics of a row: `train/loss`, `validation/forces_mae`, ...; `time` in seconds since 1970."""
        ...

    def close(self, status: str) -> None:
        """Close the log of a run that is `completed`, `stopped` or `failed`; afterwards all metrics must be on disk."""
        ...


@dataclass(frozen=True)
class Tracker:
    """Tracker that records metrics, returned by the hook `register_trackers`."""

    name: str
    """Name on the command line: `--track tensorboard`."""
    summary: str
    """One line."""
    open: Callable[[Run, int], Log]
    """Function (run, step) that opens the log of a run which continues after `step`; 0 for a new run.

    A resumed run continues its earlier log. After a kill, the metrics of steps after the checkpoint are logged a second
    time. A tracker keeps its files in a folder of its own in `run.path`.
    """
    modules: tuple[str, ...] = ()
    """Modules that the tracker imports when it is opened; they are checked before training starts."""
