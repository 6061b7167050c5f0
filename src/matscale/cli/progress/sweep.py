"""Progress of `matscale sweep` on stderr: a table on a terminal, else a line when a run begins or ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from matscale.cli.progress.train import duration
from matscale.core.runs.status import State, read_info
from matscale.core.study.clock import Clock
from matscale.core.study.identity import PlannedRun
from matscale.core.study.plan import Plan
from matscale.core.study.sweep import Sweep, Watcher

SHOWN = 12
"""Rows of the table for runs that are under way or have ended lately."""
EVERY = 1.0
"""Seconds between two pictures of the table, at least."""
ENDS = {"completed": "done", "stopped": "stopped", "crashed": "cut off", "failed": "FAILED", "blocked": "blocked"}


@contextmanager
def watcher_for(quiet: bool, plan: Plan) -> Iterator[Watcher]:
    """Silent, a table or lines."""
    if quiet:
        yield Watcher()
        return
    watcher = Table(plan) if sys.stderr.isatty() else Lines(plan)
    try:
        yield watcher
    finally:
        watcher.close()


class Lines(Watcher):
    """A line when a run begins or ends, and one with the count."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.clock = plan, Clock(plan)
        self.said = False

    def close(self) -> None:
        """Leave the terminal as it should be."""

    def changed(self, run: PlannedRun, state: State) -> None:
        if state.status in ENDS:
            reason = f" ({state.reason})" if state.reason else ""
            click.echo(f"{ENDS[state.status]:8} {run.name}{loss_of(run)}{reason}", err=True)
            self.said = False

    def looked(self, sweep: Sweep) -> None:
        if not self.said:
            click.echo(summary(sweep, self.clock), err=True)
            self.said = True


class Table(Watcher):
    """Counts, time left and what is under way, drawn again and again in place."""

    def __init__(self, plan: Plan) -> None:
        from rich.console import Console
        from rich.live import Live

        self.plan, self.clock = plan, Clock(plan)
        self.ended: dict[Path, PlannedRun] = {}
        self.live = Live(console=Console(stderr=True), auto_refresh=False, transient=False)
        self.drawn = 0.0
        self.live.start()

    def close(self) -> None:
        self.live.stop()

    def changed(self, run: PlannedRun, state: State) -> None:
        self.ended.pop(run.path, None)
        if state.status in ENDS:
            self.ended[run.path] = run
        self.drawn = 0.0

    def looked(self, sweep: Sweep) -> None:
        if time.monotonic() - self.drawn > EVERY:
            self.drawn = time.monotonic()
            self.live.update(self.picture(sweep), refresh=True)

    def picture(self, sweep: Sweep) -> Any:
        from rich.table import Table as Grid

        grid = Grid(title=summary(sweep, self.clock), title_justify="left", box=None)
        for heading in ("status", "run", "step", "loss"):
            grid.add_column(heading)
        active = [run for run in sweep.runs if sweep.states[run.path].status == "running"]
        ended = list(self.ended.values())
        for run in [*ended[-max(SHOWN - len(active), 3) :], *active[:SHOWN]]:
            info = read_info(run.path) or {}
            status = sweep.states[run.path].status
            grid.add_row(ENDS.get(status, status), run.name, str(info.get("steps", "")), loss_of(run).strip())
        return grid


def summary(sweep: Sweep, clock: Clock) -> str:
    """`12 of 120 done, 2 running, 106 waiting; about 1 h 10 min of device time left`."""
    counts = sweep.counts()
    waiting = sum(counts.get(status, 0) for status in ("planned", "stopped", "crashed"))
    parts = [f"{counts.get('completed', 0)} of {len(sweep.runs)} done"]
    parts += [f"{counts[status]} {status}" for status in ("running", "queued") if counts.get(status)]
    parts += [f"{waiting} waiting"] if waiting else []
    parts += [f"{counts[status]} {status}" for status in ("failed", "blocked") if counts.get(status)]
    left = clock.left(sweep)
    return ", ".join(parts) + ("" if left is None else f"; about {duration(left)} of device time left")


def loss_of(run: PlannedRun) -> str:
    """The loss of the best validation, if there was one."""
    loss = ((read_info(run.path) or {}).get("best") or {}).get("loss")
    return "" if loss is None else f"  loss {loss:.4g}"
