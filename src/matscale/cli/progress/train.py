"""Progress of `matscale train` on stderr: bars on a terminal, else a line now and then."""

from __future__ import annotations

import math
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from matscale.cli.progress.stages import Stages
from matscale.core.progress import Progress, StepStatus
from matscale.core.runs.record import Run

EVERY = 10.0
"""Seconds within which a line is printed while a run is under way, whether steps end or not."""
SLOWER = 10.0
"""Ratio of a step's time to the usual one above which the step is reported as slow."""
LEAST = 1.0
"""Seconds of a step below which it is never called slow."""


@contextmanager
def progress_for(quiet: bool) -> Iterator[Progress]:
    """Progress display of a run: none, bars or lines."""
    if quiet:
        yield Progress()
        return
    lines = Bars() if sys.stderr.isatty() else Lines()
    try:
        yield lines
    finally:
        lines.close()


class Lines(Progress):
    """Plain lines: one for a row of metrics or a validation, and one at least every ten seconds."""

    def __init__(self) -> None:
        self.stages = Stages()
        self.said_at = time.monotonic()
        self.pace = Pace()
        self.loss = ""
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._tick, daemon=True)

    def close(self) -> None:
        """Leave the terminal as it should be."""
        self._over.set()
        self.stages.__exit__()

    def _tick(self) -> None:
        """Print lines from a thread beside the training, which reports nothing during a step."""
        while not self._over.wait(0.5):
            if (told := self.pace.slower()) is not None:
                self.show(told)
            self.refresh()

    def refresh(self) -> None:
        """Show where the run is, if that was not said for a while."""
        if time.monotonic() - self.said_at >= EVERY:
            self.show(f"{self.pace.share:4.0%}  {self.pace.doing}  {self.loss}{self.pace.text()}")

    def show(self, text: str) -> None:
        """One line."""
        self.said_at = time.monotonic()
        click.echo(text, err=True)

    def stage(self, what: str, done: int, total: int) -> None:
        self.stages(what, done, total)

    def started(self, run: Run, facts: Mapping[str, Any]) -> None:
        self.stages.__exit__()
        self.stages.what = ""
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

    def said(self, message: str) -> None:
        self.show(message)

    def ended(self, run: Run, status: str) -> None:
        self._over.set()


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

    def started(self, run: Run, facts: Mapping[str, Any]) -> None:
        super().started(run, facts)
        self.whole = self.bars.add_task("run", total=1.0, note="")
        self.epoch = self.bars.add_task("epoch", total=1, note="")
        self.bars.start()

    def show(self, text: str) -> None:
        self.bars.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def refresh(self) -> None:
        self.bars.update(self.whole, completed=self.pace.share, note=f"{self.loss}{self.pace.text()}")

    def stepped(self, status: StepStatus) -> None:
        super().stepped(status)
        self.refresh()
        which, note = f"epoch {status.epoch + 1}", f"step {status.step}"
        self.bars.update(self.epoch, completed=status.batch, total=status.n_batches, description=which, note=note)

    def close(self) -> None:
        super().close()
        self.bars.stop()


class Pace:
    """Speed and time left, from what the last minutes took; what is under way now counts with the time it has taken.

    `clock` gives seconds. Sums of time, progress and atoms fade with a time constant of a tenth of the run so far, at
    least half a minute and at most five.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.share = 0.0
        self.doing = "step 1"
        self.began = self.since = clock()
        self.time = self.progress = self.step_time = self.atoms = self.waited = 0.0
        self.last: StepStatus | None = None
        self.usual: deque[float] = deque(maxlen=101)
        """Seconds of the last steps that were not slow."""
        self.told_slow = False

    def begin(self) -> None:
        """The first step begins."""
        self.began = self.since = self.clock()

    def turn_to(self, what: str) -> None:
        """Something other than a step begins."""
        self.doing = what

    def add(self, status: StepStatus) -> None:
        """A step has ended."""
        now = self.clock()
        passed = now - self.since
        kept = math.exp(-passed / min(max((now - self.began) / 10, 30.0), 300.0))
        done = status.progress - (self.share if self.last else status.progress)
        self.time = kept * self.time + (passed if self.last else 0.0)
        self.progress = kept * self.progress + done
        self.step_time = kept * self.step_time + status.seconds
        self.atoms = kept * self.atoms + status.n_atoms
        self.waited = kept * self.waited + status.data_wait
        self.share, self.since, self.last = status.progress, now, status
        self.doing = f"step {status.step + 1}"
        if not self._is_slow(status.seconds):
            self.usual.append(status.seconds)
            self.told_slow = False

    def _is_slow(self, seconds: float) -> bool:
        return len(self.usual) >= 5 and seconds > max(SLOWER * statistics.median(self.usual), LEAST)

    def _under_way(self) -> float:
        """Seconds since the last step ended."""
        return self.clock() - self.since

    def slower(self) -> str | None:
        """A sentence when a step takes ten times what steps took before; once, until they are as fast again."""
        now = self._under_way() if self.doing.startswith("step") else 0.0
        before = self.last.seconds if self.last else 0.0
        if self.told_slow or not self._is_slow(max(now, before)):
            return None
        self.told_slow = True
        usual = statistics.median(self.usual)
        return (
            f"A step takes {max(now, before):.2g} s and longer, {usual:.2g} s before. Other programs may be using "
            "these cores or this device; a run with fewer threads (--set compute.threads=1) suffers less from them."
        )

    def left(self) -> float | None:
        """Seconds to the end of the run; None if it is not known yet."""
        if self.progress <= 0:
            return None
        return (self.time + self._under_way()) / self.progress * (1 - self.share)

    def text(self) -> str:
        """`1,200 atoms/s  data wait 3%  5 min left`."""
        left = self.left()
        time_left = "" if left is None else f"  {duration(left)} left"
        spent = max(self.step_time + (self._under_way() if self.doing.startswith("step") else 0.0), 1e-9)
        return f"{self.atoms / spent:,.0f} atoms/s  data wait {self.waited / spent:.0%}{time_left}"


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
    """Lines for the start of a run: architecture, data and device."""
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
