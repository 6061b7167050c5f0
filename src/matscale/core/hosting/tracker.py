"""Trackers: programs that draw the metrics of a run. They are told what metrics.jsonl is told, which stays the record.

A tracker knows nothing of training: it is opened on a run folder and given numbers. It may raise whatever it likes; it
is then switched off and the run goes on (`matscale.core.hosting.observers`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from matscale.core.errors import PluginError
from matscale.core.hosting.loading import Plugin, install_hint

if TYPE_CHECKING:
    from matscale.core.runs.record import Run

PLACE = frozenset({"step", "split", "time"})
"""Keys of a row that say where and when, and are no metrics."""


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


class Tracking:
    """A tracker as an observer of one run."""

    implements = ("run_started", "step_ended", "evaluated", "run_ended")

    def __init__(self, tracker: Tracker, title: str) -> None:
        self.tracker, self.title = tracker, title
        self.log: Log | None = None

    @classmethod
    def of(cls, tracker: Tracker, plugin: Plugin) -> Tracking:
        """Raises PluginError that says what to install for a module that is missing."""
        title = f"Tracker {tracker.name!r} ({plugin.entry.distribution} {plugin.entry.version})"
        for module in tracker.modules:
            if find_spec(module) is None:
                raise PluginError(
                    f"{title} cannot be used: there is no module {module!r}. {install_hint(module, plugin.entry)}"
                )
        return cls(tracker, title)

    @property
    def name(self) -> str:
        return self.tracker.name

    @property
    def hook(self) -> Tracking:
        return self

    def run_started(self, run: Run) -> None:
        """Its rows go up to the step that it continues from: those after its checkpoint have been cut off."""
        self.log = self.tracker.open(run, max((row["step"] for row in run.metrics()), default=0))

    def step_ended(self, run: Run, metrics: Mapping[str, Any]) -> None:
        self._tell(metrics)

    def evaluated(self, run: Run, metrics: Mapping[str, Any]) -> None:
        self._tell(metrics)

    def run_ended(self, run: Run, status: str) -> None:
        if self.log is not None:
            self.log.close(status)

    def _tell(self, row: Mapping[str, Any]) -> None:
        if self.log is not None:
            self.log.log(row["step"], row["time"], scalars(row))


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of metrics.jsonl under its keys, after the split: `train/lr`, `validation/loss`."""
    values = {key: value for key, value in row.items() if key not in PLACE and isinstance(value, int | float)}
    return {f"{row['split']}/{key}": float(value) for key, value in values.items()}
