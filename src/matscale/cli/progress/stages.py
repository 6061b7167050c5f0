"""Progress of things that take a while before or between results: on stderr, one line a stage."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from matscale.core.progress import Progress


class Stages:
    """Called with (what, done, total): a line that counts on a terminal, else one line when a stage begins.

    `total` 0: unknown. Used as a context, it ends an unfinished line before anything else is printed.
    """

    def __init__(self) -> None:
        self.counts = sys.stderr.isatty()
        self.what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        begins, self.what = what != self.what, what
        if self.counts:
            of = f" of {total:,}" if total else ""
            click.echo(f"\r\033[K{what}: {done:,}{of}", nl=False, err=True)
        elif begins:
            click.echo(f"{what} ...", err=True)

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.counts and self.what:
            click.echo(err=True)
        self.what = ""


class Shown(Progress):
    """Stages, and warnings once each, of what the core does."""

    def __init__(self, stages: Stages) -> None:
        self.stage = stages  # type: ignore[method-assign]
        self.told: set[str] = set()

    def said(self, message: str) -> None:
        if message not in self.told:
            self.told.add(message)
            click.echo(message, err=True)


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
