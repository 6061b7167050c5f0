"""Observers of a run: plugins and trackers whose hooks are called during training.

An observer that raises an error is switched off, with one warning.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from matscale.core.errors import PluginError
from matscale.core.hosting.loading import Plugin, install_hint

if TYPE_CHECKING:
    from matscale.core.hosting.tracker import Log, Tracker
    from matscale.core.runs.record import Run

PLACE = frozenset({"step", "split", "time"})
"""Keys of a row of metrics.jsonl that are not metrics."""


class PluginWarning(UserWarning):
    """Warning for an error in a plugin: matscale goes on without the part that raised the error."""


class Watcher(Protocol):
    """Observer of a run: a plugin, or a tracker."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str:
        """Kind, name and distribution, as a text for messages; different for each observer of a run."""
        ...

    @property
    def implements(self) -> Sequence[str]:
        """Names of the observer hooks that the plugin or tracker implements."""
        ...

    @property
    def hook(self) -> Any:
        """Object with a method for each hook in `implements`."""
        ...


class Observers:
    """All observers of a run. Each method calls the hook of the same name of every observer.

    `matscale.core.hookspecs` explains the hooks.
    """

    def __init__(self, watchers: Iterable[Watcher]) -> None:
        self._watchers = {watcher.title: watcher for watcher in watchers}

    @property
    def names(self) -> list[str]:
        """Names of the observers, except those that were switched off."""
        return [watcher.name for watcher in self._watchers.values()]

    def run_started(self, run: Run) -> None:
        self._notify("run_started", run=run)

    def step_ended(self, run: Run, metrics: dict[str, float]) -> None:
        self._notify("step_ended", run=run, metrics=metrics)

    def evaluated(self, run: Run, metrics: dict[str, float]) -> None:
        self._notify("evaluated", run=run, metrics=metrics)

    def checkpoint_saved(self, run: Run, step: int) -> None:
        self._notify("checkpoint_saved", run=run, step=step)

    def run_ended(self, run: Run, status: str) -> None:
        self._notify("run_ended", run=run, status=status)

    def _notify(self, event: str, **arguments: Any) -> None:
        for title, watcher in list(self._watchers.items()):
            if event not in watcher.implements:
                continue
            if isinstance(metrics := arguments.get("metrics"), dict):
                arguments["metrics"] = dict(metrics)  # each observer may change its own copy
            try:
                with redirect_stdout(sys.stderr):
                    getattr(watcher.hook, event)(**arguments)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit, too: an observer must not end a run
                del self._watchers[title]
                message = _farewell(title, event, error)
                warnings.warn(message, PluginWarning, stacklevel=3)


def _farewell(title: str, event: str, error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{title} raised {type(error).__name__}: {error} in its hook {event} "
        f"({where.filename}:{where.lineno}). It is switched off for the rest of this run; the run goes on."
    )


class Tracking:
    """Observer that passes the metrics of one run to a tracker."""

    implements = ("run_started", "step_ended", "evaluated", "run_ended")

    def __init__(self, tracker: Tracker, title: str) -> None:
        self.tracker, self.title = tracker, title
        self.log: Log | None = None

    @classmethod
    def of(cls, tracker: Tracker, plugin: Plugin) -> Tracking:
        """Make the observer for a tracker that `plugin` supplies.

        Raises PluginError that says what to install if a module is missing.
        """
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
        """Open the log of the tracker, to continue after the last row of metrics.jsonl.

        If the run was resumed, rows after its checkpoint have been removed before.
        """
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
    """Select the numbers in a row of metrics.jsonl, except `step` and `time`.

    The split is put in front of each key: `train/lr`, `validation/loss`.
    """
    values = {key: value for key, value in row.items() if key not in PLACE and isinstance(value, int | float)}
    return {f"{row['split']}/{key}": float(value) for key, value in values.items()}
