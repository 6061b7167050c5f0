"""Progress of packing, on stderr: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

EVERY = 10.0
"""Seconds between lines when stderr is no terminal."""


class PackProgress:
    """Called with (structures done, structures in all). A context manager."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._first: tuple[float, int] | None = None
        self._last = 0.0

    def __enter__(self) -> PackProgress:
        if sys.stderr.isatty():
            self._bar, self._task = _bar()
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        # What an earlier, interrupted call did is no work of this one.
        started, before = self._first = self._first or (now, done)
        rate = (done - before) / max(now - started, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total or None, rate=f"{rate:,.0f} structures/s")
        elif now - self._last >= EVERY or (done == total and done > before):
            self._last = now
            left = f", {(total - done) / rate:.0f} s left" if rate and total > done else ""
            speed = f", {rate:,.0f} structures/s" if rate else ""
            click.echo(f"packed {done:,} of {total:,}{speed}{left}", err=True)


def _bar() -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("packing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    return bar, bar.add_task("packing", total=None, rate="")
