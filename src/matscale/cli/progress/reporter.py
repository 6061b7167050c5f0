"""Progress of work on stderr: bars on a terminal, drawn by rich; lines of text elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matscale.cli.progress.pace import Pace, Stage
from matscale.cli.progress.text import errors, introduction, loss_of, summary
from matscale.core.progress import Reporter, StepStatus

if TYPE_CHECKING:
    from matscale.core.runs.record import Run
    from matscale.core.runs.status import State
    from matscale.core.study.clock import Clock
    from matscale.core.study.identity import PlannedRun
    from matscale.core.study.sweep import Sweep

EVERY = 10.0
"""Longest time between two lines during work [s]."""
DRAWN_EVERY = 1.0
"""Least time between two drawings of the table of a sweep [s]."""
SHOWN = 12
"""Number of rows in the table of a sweep, for runs that are in progress or have ended lately."""
ENDS = {"completed": "done", "stopped": "stopped", "crashed": "cut off", "failed": "FAILED", "blocked": "blocked"}


@contextmanager
def reporter(quiet: bool = False) -> Iterator[Reporter]:
    """Context with the right reporter for stderr (none, bars or lines); at the end, the terminal is restored."""
    if quiet:
        yield Reporter()
        return
    lines = Drawn() if sys.stderr.isatty() else Lines()
    try:
        yield lines
    finally:
        lines.close()


class Lines(Reporter):
    """Reporter that prints lines: starts, ends and measurements, and at least one line every ten seconds."""

    def __init__(self) -> None:
        self.said_at = time.monotonic()
        self.told = set[str]()
        self.under_way: Stage | None = None
        self.pace = Pace()
        self.loss = ""
        self.clock: Clock | None = None
        self.summed_up = False
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._tick, daemon=True)

    def close(self) -> None:
        """End the reports and restore the terminal."""
        self._over.set()
        self.end_stage()

    def show(self, text: str) -> None:
        """Print one line."""
        self.said_at = time.monotonic()
        click.echo(text, err=True)

    def said(self, message: str) -> None:
        if message not in self.told:
            self.told.add(message)
            self.show(message)

    # Stages

    def stage(self, what: str, done: int = 0, total: int = 0) -> None:
        begins = self.under_way is None or self.under_way.what != what
        if begins:
            self.end_stage()
            self.under_way = Stage(what, done)
        assert self.under_way is not None
        self.under_way.turn_to(done, total)
        self.show_stage(self.under_way, begins)

    def show_stage(self, stage: Stage, begins: bool) -> None:
        """Show a stage that has just begun or has progressed."""
        if begins:
            self.show(f"{stage.what} ...")
        elif time.monotonic() - self.said_at >= EVERY:
            self.show(f"{stage.what}: {stage.text()}")

    def end_stage(self) -> None:
        """End the present stage."""
        self.under_way = None

    # A run

    def _tick(self) -> None:
        """Show progress from a separate thread, since training reports nothing during a step."""
        while not self._over.wait(0.5):
            if (told := self.pace.slower()) is not None:
                self.show(told)
            self.refresh()

    def refresh(self) -> None:
        """Show the progress of the run, unless a line was printed shortly before."""
        if time.monotonic() - self.said_at >= EVERY:
            self.show(f"{self.pace.share:4.0%}  {self.pace.doing}  {self.loss}{self.pace.text()}")

    def started(self, run: Run, facts: Mapping[str, Any]) -> None:
        self.end_stage()
        for line in introduction(run, facts):
            self.show(line)
        self.pace.begin()
        self._watch.start()

    def stepped(self, status: StepStatus) -> None:
        self.pace.add(status)

    def working(self, what: str) -> None:
        self.pace.turn_to(what)

    def logged(self, row: Mapping[str, Any]) -> None:
        self.loss = f"train loss {row.get('loss', row['objective']):.4g}  "
        self.refresh()

    def validated(self, row: Mapping[str, Any], is_best: bool) -> None:
        best = "  best so far" if is_best else ""
        self.show(f"{self.pace.share:4.0%}  epoch {row['epoch']:.3g}  validation {errors(row)}{best}")

    def ended(self, run: Run, status: str) -> None:
        self._over.set()

    # A sweep

    def changed(self, run: PlannedRun, state: State) -> None:
        if state.status in ENDS:
            reason = f" ({state.reason})" if state.reason else ""
            self.show(f"{ENDS[state.status]:8} {run.name}{loss_of(run)}{reason}")
            self.summed_up = False

    def looked(self, sweep: Sweep) -> None:
        if not self.summed_up:
            self.show(self.summary(sweep))
            self.summed_up = True

    def summary(self, sweep: Sweep) -> str:
        """Counts of the runs of a sweep and the time left, as text."""
        from matscale.core.study.clock import Clock  # start-up: torch

        self.clock = self.clock or Clock(sweep.plan)
        return summary(sweep, self.clock)


class Drawn(Lines):
    """Reporter that draws bars for stage, run and epoch, and a table of the sweep; other lines scroll above them."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console  # start-up: rich
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        self.console = Console(stderr=True)
        self.bars = Progress(*columns, console=self.console)
        self._drawing = threading.Lock()
        self.tasks: dict[str, Any] = {}
        """Task of each bar in `bars`, by the key of the bar."""
        self.table: Any = None
        self.drawn = 0.0
        self.finished: dict[Path, PlannedRun] = {}
        self.live = Live(get_renderable=self.picture, console=self.console, transient=True)

    def picture(self) -> Any:
        """Table of the sweep if there is one, else the bars."""
        return self.table or self.bars

    def close(self) -> None:
        super().close()
        self.live.stop()
        if self.table is not None:
            self.console.print(self.table)

    def show(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def draw(self, bar: str, note: str, completed: float, total: float | None, description: str = "") -> None:
        """Draw a bar, or draw it again with its present state."""
        description = description or bar
        with self._drawing:
            if bar not in self.tasks:
                self.tasks[bar] = self.bars.add_task(description, total=total, note=note)
            self.bars.update(self.tasks[bar], description=description, completed=completed, total=total, note=note)
            if not self._over.is_set():
                self.live.start(refresh=True)

    def show_stage(self, stage: Stage, begins: bool) -> None:
        self.draw("stage", stage.text(), stage.done, stage.total or None, stage.what)

    def end_stage(self) -> None:
        if self.under_way is not None:
            self.bars.remove_task(self.tasks.pop("stage"))
            self.show(f"{self.under_way.what}: {self.under_way.counts}")
        super().end_stage()

    def refresh(self) -> None:
        share = self.pace.share
        self.draw("run", f"{share:4.0%}  {self.loss}{self.pace.text()}", share, 1.0)

    def stepped(self, status: StepStatus) -> None:
        super().stepped(status)
        self.refresh()
        self.draw("epoch", f"step {status.step}", status.batch, status.n_batches, f"epoch {status.epoch + 1}")

    def changed(self, run: PlannedRun, state: State) -> None:
        self.finished.pop(run.path, None)
        if state.status in ENDS:
            self.finished[run.path] = run
        self.drawn = 0.0

    def looked(self, sweep: Sweep) -> None:
        if time.monotonic() - self.drawn > DRAWN_EVERY:
            self.drawn = time.monotonic()
            self.table = self.grid(sweep)
            self.live.start(refresh=True)

    def grid(self, sweep: Sweep) -> Any:
        """Table of a sweep: the runs that have ended lately, then the runs in progress."""
        from rich.table import Table  # start-up: rich

        from matscale.core.runs.status import read_info  # start-up: torch

        grid = Table(title=self.summary(sweep), title_justify="left", box=None)
        for heading in ("status", "run", "step", "loss"):
            grid.add_column(heading)
        active = [run for run in sweep.runs if sweep.states[run.path].status == "running"]
        ended = list(self.finished.values())
        for run in [*ended[-max(SHOWN - len(active), 3) :], *active[:SHOWN]]:
            info = read_info(run.path) or {}
            status = sweep.states[run.path].status
            grid.add_row(ENDS.get(status, status), run.name, str(info.get("steps", "")), loss_of(run).strip())
        return grid
