"""Launchers: start runs as processes on some machine, and report how they end.

A launcher knows nothing of studies. It gets jobs, each a run folder and the command that trains into it, and is asked
now and then which jobs have ended, and how. Processes may outlive the sweep: the next sweep finds them by the lock that
they hold (`claim`), or by the launcher's list `held`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from matscale.core.config import Config
from matscale.core.runs.record import CONFIG, LOG, PLANNED


@dataclass(frozen=True)
class Job:
    """One run to train."""

    path: Path
    """The run folder; it holds `planned.toml`."""

    @staticmethod
    def options() -> list[str]:
        """Options of `matscale train` that every run of a study gets."""
        return ["--quiet", "--no-baselines"]

    @property
    def arguments(self) -> list[str]:
        """Arguments of `python -m matscale`. A run that has begun is resumed."""
        run = ["train", "-o", str(self.path), *self.options()]
        begun = (self.path / CONFIG).exists()
        return [*run, "--resume"] if begun else [*run, "--config", str(self.path / PLANNED)]

    @property
    def command(self) -> list[str]:
        """Command line that trains the run in a process on this machine."""
        return [sys.executable, "-P", "-m", "matscale", *self.arguments]

    @property
    def log(self) -> Path:
        """File that the output of the job is written to."""
        return self.path / LOG


@dataclass(frozen=True)
class Ended:
    """Job that has ended."""

    path: Path
    code: int | None
    """Exit code; negative: the signal that ended it; None: unknown."""
    reason: str = ""
    """Reason that the launcher gives: `cancelled`, `node failure`."""
    retry: bool = True
    """Whether the sweep may start the run again; not if a user cancelled the job."""


class Pool(Protocol):
    """A launcher at work for one sweep."""

    def room(self) -> int:
        """Number of further jobs that the pool would take now."""
        ...

    def start(self, jobs: Sequence[Job]) -> None:
        """Start jobs. Raises MatscaleError if that fails; then none of them was started."""
        ...

    def held(self) -> dict[Path, str]:
        """Jobs that have not ended, those of an earlier sweep included: run folder -> `queued` or `running`."""
        ...

    def ended(self) -> list[Ended]:
        """Jobs that ended since the last call."""
        ...

    def stop(self) -> str:
        """Interrupt the sweep: jobs that need it save and end, others go on.

        Return a sentence on the jobs that go on, or an empty one.
        """
        ...

    def close(self) -> None:
        """Release everything: the pool is not used any more. Jobs that have not ended go on."""
        ...


@runtime_checkable
class EndsOne(Protocol):
    """Pool that can end one run, saved, while the others go on."""

    def end(self, path: Path) -> None:
        """Have the run at `path` save and end; `ended` then lists it."""
        ...


@dataclass(frozen=True)
class Launcher:
    """A way to run a study's trainings. Returned by the hook `register_launchers`."""

    name: str
    """Name of the launcher: in `--launcher slurm`, and of the table of the study file that holds its options."""
    summary: str
    """Description in one line."""
    options: type[Config]
    """Configuration class of the options in that table."""
    open: Callable[[Any, Path], Pool]
    """(options, study folder) -> a pool. Raises ConfigError if this launcher cannot be used here, and says why."""
    outlives: bool = False
    """Whether its jobs go on without the sweep, so that `--no-wait` makes sense."""
