"""Launchers: start runs as processes on a machine or cluster, and report how they end.

A launcher gets jobs, each a run folder with the command that trains into it; it needs no knowledge of studies. The
sweep asks it regularly which jobs have ended, and how. Processes may outlive the sweep: the next sweep finds them by
the lock that they hold (`claim`), or by the launcher's list `held`.
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
    """Job of a launcher: one run to train."""

    path: Path
    """Run folder; it holds `planned.toml`."""

    @staticmethod
    def options() -> list[str]:
        """Options of `matscale train` that every run of a study gets."""
        return ["--quiet", "--no-baselines"]

    @property
    def arguments(self) -> list[str]:
        """Arguments of `python -m matscale`. A run that has already started is resumed."""
        run = ["train", "-o", str(self.path), *self.options()]
        begun = (self.path / CONFIG).exists()
        return [*run, "--resume"] if begun else [*run, "--config", str(self.path / PLANNED)]

    @property
    def command(self) -> list[str]:
        """Command line that trains the run in a process on this machine."""
        return [sys.executable, "-P", "-m", "matscale", *self.arguments]

    @property
    def log(self) -> Path:
        """File for the output of the job."""
        return self.path / LOG


@dataclass(frozen=True)
class Ended:
    """Job that has ended, with its exit code or the launcher's reason."""

    path: Path
    code: int | None
    """Exit code of the process. A negative code is minus the number of the signal that ended it; None is unknown."""
    reason: str = ""
    """Reason that the launcher gives: `cancelled`, `node failure`."""
    retry: bool = True
    """Whether the sweep may start the run again; not if a user cancelled the job."""


class Pool(Protocol):
    """Running launcher of one sweep, with its jobs."""

    def room(self) -> int:
        """Number of further jobs that the pool accepts now."""
        ...

    def start(self, jobs: Sequence[Job]) -> None:
        """Start jobs. Raises MatscaleError if that fails; then no job was started."""
        ...

    def held(self) -> dict[Path, str]:
        """State (`queued` or `running`) of each job that has not ended, by run folder, with jobs of earlier sweeps."""
        ...

    def ended(self) -> list[Ended]:
        """Jobs that ended since the last call."""
        ...

    def stop(self) -> str:
        """Interrupt the sweep: jobs that depend on it save and end, others go on.

        Returns a sentence about the jobs that go on, or an empty text.
        """
        ...

    def close(self) -> None:
        """Close the pool and release its resources. Jobs that have not ended go on."""
        ...


@runtime_checkable
class EndsOne(Protocol):
    """Pool that can stop one run, after saving it, while the others go on."""

    def end(self, path: Path) -> None:
        """Make the run at `path` save and end; `ended` lists it afterwards."""
        ...


@dataclass(frozen=True)
class Launcher:
    """Launcher: a way to start the runs of a study, returned by the hook `register_launchers`."""

    name: str
    """Name of the launcher, for `--launcher slurm` and for the table with its options in the study file."""
    summary: str
    """Description in one line."""
    options: type[Config]
    """Configuration class of the launcher's table in the study file."""
    open: Callable[[Any, Path], Pool]
    """Function (options, study folder) that opens the pool. Raises ConfigError if the launcher cannot be used here."""
    outlives: bool = False
    """Whether jobs go on without the sweep, so that `--no-wait` is possible."""
