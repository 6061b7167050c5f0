"""Trackers: experiment-tracking programs that display the metrics of a run, as in metrics.jsonl.

A tracker is opened for a run folder and receives numbers; it knows nothing about training. If it raises an error, it is
switched off and the run goes on (`matscale.core.hosting.observers`).
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
        """Log the metrics of one row of metrics.jsonl, such as `train/loss` or `validation/forces_mae`.

        `time` is in seconds since 1970.
        """
        ...

    def close(self, status: str) -> None:
        """Close the log at the end of a run. `status` is `completed`, `stopped` or `failed`.

        When this returns, all metrics must be on the disk.
        """
        ...


@dataclass(frozen=True)
class Tracker:
    """Tracker that records metrics, supplied by a plugin through the hook `register_trackers`."""

    name: str
    """Name on the command line: `--track tensorboard`."""
    summary: str
    """Description in one line."""
    open: Callable[[Run, int], Log]
    """Function (run, step) that opens the log of a run from which metrics after `step` will come; 0 for a new run.

    A resumed run continues its earlier log. After a kill, the metrics of steps after the checkpoint are logged a second
    time. A tracker keeps its files in a folder of its own in `run.path`.
    """
    modules: tuple[str, ...] = ()
    """Modules that `open` imports. matscale checks before training that they are installed."""
