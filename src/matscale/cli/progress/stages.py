"""Progress of things that take a while before or between results: on stderr, one line a stage."""

from __future__ import annotations

import sys

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
