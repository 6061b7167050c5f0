"""The plugins that watch a run. None of them can end it: one that raises is switched off, with one warning."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterable
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from matscale.core.hosting.loading import Plugin

if TYPE_CHECKING:
    from matscale.core.train.record import Run


class PluginWarning(UserWarning):
    """A plugin raised where nobody had asked it for anything, and was switched off."""


class Observers:
    """Calls the observer hooks of some plugins. See `matscale.core.hookspecs` for what each hook means."""

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self._plugins = {plugin.entry.qualified: plugin for plugin in plugins}

    @property
    def names(self) -> list[str]:
        """Plugins that are still watching."""
        return [plugin.name for plugin in self._plugins.values()]

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
        for key, plugin in list(self._plugins.items()):
            if event not in plugin.implements:
                continue
            if isinstance(metrics := arguments.get("metrics"), dict):
                arguments["metrics"] = dict(metrics)  # an observer may do as it likes with its own copy
            try:
                with redirect_stdout(sys.stderr):
                    getattr(plugin.hook, event)(**arguments)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit too: an observer does not end a run
                del self._plugins[key]
                message = _farewell(plugin, event, error)
                warnings.warn(message, PluginWarning, stacklevel=3)


def _farewell(plugin: Plugin, event: str, error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"Plugin {plugin.describe()} raised {type(error).__name__}: {error} in its hook {event} "
        f"({where.filename}:{where.lineno}). It is switched off for the rest of this run; the run goes on."
    )
