"""What `matscale train` shows on stderr while it works: bars on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from matscale.cli.stages import Stages
from matscale.core.train.progress import Progress, StepStatus
from matscale.core.train.record import Run

EVERY = 10.0
"""Seconds between lines about training, at least."""


@contextmanager
def progress_for(quiet: bool) -> Iterator[Progress]:
    """Silent, bars or lines."""
    if quiet:
        yield Progress()
        return
    lines = Bars() if sys.stderr.isatty() else Lines()
    try:
        yield lines
    finally:
        lines.close()


class Lines(Progress):
    """Plain lines."""

    def __init__(self) -> None:
        self.stages = Stages()
        self.said_at = 0.0
        self.pace = Pace()

    def close(self) -> None:
        """Leave the terminal as it should be."""
        self.stages.__exit__()

    def show(self, text: str) -> None:
        """One line."""
        click.echo(text, err=True)

    def stage(self, what: str, done: int, total: int) -> None:
        self.stages(what, done, total)

    def started(self, run: Run, facts: Mapping[str, Any]) -> None:
        self.stages.__exit__()
        self.stages.what = ""
        for line in introduction(run, facts):
            self.show(line)

    def stepped(self, status: StepStatus) -> None:
        self.pace.add(status)

    def logged(self, row: Mapping[str, Any]) -> None:
        if time.monotonic() - self.said_at < EVERY:
            return
        self.said_at = time.monotonic()
        loss = f"train loss {row.get('loss', row['objective']):.4g}"
        self.show(f"{self.pace.share:4.0%}  step {row['step']}  {loss}  {self.pace.text()}")

    def validated(self, row: Mapping[str, Any], is_best: bool) -> None:
        best = "  best so far" if is_best else ""
        self.show(f"{self.pace.share:4.0%}  epoch {row['epoch']:.3g}  validation {errors(row)}{best}")

    def said(self, message: str) -> None:
        self.show(message)


class Bars(Lines):
    """An overall bar and one of the epoch; lines about validations scroll by above them."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.bars = RichProgress(*columns, console=Console(stderr=True), transient=True)
        self.loss = ""

    def started(self, run: Run, facts: Mapping[str, Any]) -> None:
        super().started(run, facts)
        self.whole = self.bars.add_task("run", total=1.0, note="")
        self.epoch = self.bars.add_task("epoch", total=1, note="")
        self.bars.start()

    def show(self, text: str) -> None:
        self.bars.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stepped(self, status: StepStatus) -> None:
        super().stepped(status)
        self.bars.update(self.whole, completed=status.progress, note=f"{self.loss}{self.pace.text()}")
        which, note = f"epoch {status.epoch + 1}", f"step {status.step}"
        self.bars.update(self.epoch, completed=status.batch, total=status.n_batches, description=which, note=note)

    def logged(self, row: Mapping[str, Any]) -> None:
        self.loss = f"loss {row.get('loss', row['objective']):.4g}  "

    def close(self) -> None:
        super().close()
        self.bars.stop()


class Pace:
    """Speed and time left, from what the last steps took."""

    def __init__(self) -> None:
        self.share = self.first_share = 0.0
        self.began: float | None = None
        self.rate = self.wait = 0.0

    def add(self, status: StepStatus) -> None:
        if self.began is None:
            self.began, self.first_share = time.monotonic(), status.progress
        self.share = status.progress
        seconds = max(status.seconds, 1e-9)
        fresh = 0.1 if self.rate else 1.0
        self.rate += fresh * (status.n_atoms / seconds - self.rate)
        self.wait += fresh * (status.data_wait / seconds - self.wait)

    def left(self) -> float | None:
        """Seconds to the end of the run, if it can be told yet."""
        done = self.share - self.first_share
        if self.began is None or done <= 0:
            return None
        return (time.monotonic() - self.began) / done * (1 - self.share)

    def text(self) -> str:
        left = self.left()
        time_left = "" if left is None else f"  {duration(left)} left"
        return f"{self.rate:,.0f} atoms/s  data wait {self.wait:.0%}{time_left}"


def duration(seconds: float) -> str:
    """`42 s`, `3 min`, `1 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def errors(row: Mapping[str, Any]) -> str:
    """The loss that is compared, and errors in the units that people are shown."""
    units = (
        ("energy_mae", "energy", "meV/atom"),
        ("forces_mae", "forces", "meV/Å"),
        ("stress_mae", "stress", "meV/Å³"),
    )
    parts = [f"loss {row['loss']:.4g}"] if "loss" in row else []
    parts += [f"{word} {1e3 * row[key]:.4g} {unit}" for key, word, unit in units if key in row]
    return "  ".join(parts) or pretrained(row)


def pretrained(row: Mapping[str, Any]) -> str:
    """The error of what pre-training predicts, beside that of the trivial guess: `noise 0.041 Å (zero: 0.098 Å)`."""
    guesses = [key.partition("_rmse_of_") for key in row if "_rmse_of_" in key]
    return "  ".join(
        f"{term} {row[f'{term}_rmse']:.4g} Å ({guess}: {row[f'{term}_rmse_of_{guess}']:.4g} Å)"
        for term, _, guess in guesses
    )


def introduction(run: Run, facts: Mapping[str, Any]) -> list[str]:
    """What is trained on what, where: lines for the start of a run."""
    n, data = facts["parameters"], facts["dataset"]
    architecture = facts["architecture"]
    lines = [
        f"{architecture['name']}: {n['total']:,} parameters ({n['non_embedding']:,} without embeddings)",
        f"Data {data['path']}: {data['train']:,} structures to train on, {data['validation']:,} to validate",
    ]
    if "pretrain" in facts:
        lines.append(f"  pre-training: {facts['pretrain']}, without labels")
    for label, part in ({} if "pretrain" in facts else data["labels"]).items():
        keys = f"  from {', '.join(part['keys'])}" if part["keys"] else ""
        lines.append(f"  {label:7} on {part['train']:,} and {part['validation']:,} of them{keys}")
    if data["labels_by"] and "pretrain" not in facts:
        lines.append(f"  labels by {data['labels_by']}")
    processes = f", {facts['world_size']} processes" if facts["world_size"] > 1 else ""
    batch = ", ".join(f"{v:,} {k}" for k, v in facts["global_batch"].items())
    lines.append(f"On {facts['device']}, {facts['precision']}{processes}; a step takes up to {batch}")
    if facts["resumed_from"] is not None:
        lines.append(f"Resumed from step {facts['resumed_from']:,}")
    return [*lines, f"Run {run.path}"]
