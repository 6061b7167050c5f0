"""Status of a run, read from its folder; tells permanent failures from transient ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matscale.core import errors
from matscale.core.config import read_toml
from matscale.core.errors import MatscaleError
from matscale.core.locks import is_claimed, is_locked
from matscale.core.runs import info as records
from matscale.core.runs.record import CHECKPOINTS, CONFIG

Status = Literal["planned", "queued", "running", "completed", "stopped", "crashed", "failed", "blocked"]
"""Status of a run.

- planned: the folder has no run yet
- queued: given to a launcher, not yet running
- running, completed
- stopped: saved on request
- crashed: interrupted for an outside reason
- failed: ended by an error of its own, which would occur again
- blocked: its trunk ended without the checkpoint that it starts from
"""

INSIDE = frozenset(
    kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MatscaleError)
) - {1, 5, 6}
"""Exit codes of errors that would occur again: configuration and plugins 2, data 3, non-finite loss 4."""

KILLED = "it was killed, or the machine went down"
"""Reason of an interrupted run whose folder shows no other."""

_MEND = "`matscale train --resume -o {}` takes it from the newest checkpoint."

_OF_ERROR = {
    name: kind.exit_code
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, MatscaleError)
}


@dataclass(frozen=True)
class State:
    """Status of a run, with the reason if it did not complete."""

    status: Status
    reason: str = ""
    """Reason why the run did not complete, or what is doubtful about one that did."""


def read_info(run: Path) -> dict[str, Any] | None:
    """Read run.json; None if it is missing or unreadable."""
    try:
        return records.read_info(run)
    except MatscaleError:
        return None


def is_at_work(run: Path) -> bool:
    """Whether a process trains the run or is about to, started by a sweep or by `matscale train`."""
    return is_claimed(run) or is_locked(run)


def state_of(run: Path) -> State:
    """Status of a run, read from its folder. A run with status `running` that no process trains was killed."""
    return State("running") if is_at_work(run) else recorded(run)


def recorded(run: Path) -> State:
    """Status in the folder of a run that no process trains."""
    if not (run / CONFIG).exists():
        began = (run / CHECKPOINTS).exists()
        return State("crashed", f"{run / CONFIG}: is missing. {_MEND.format(run)}") if began else State("planned")
    try:
        info = records.read_info(run)
    except MatscaleError as damage:
        return State("crashed", f"{damage} {_MEND.format(run)}")
    status = info.get("status")
    if status == "running":
        return State("crashed", KILLED)
    if status == "failed":
        error = str(info.get("error") or "")
        inside = _OF_ERROR.get(error.partition(":")[0]) in INSIDE
        return State("failed" if inside else "crashed", error)
    return State("stopped" if status == "stopped" else "completed", _doubt(run, info))


def _doubt(run: Path, info: dict[str, Any]) -> str:
    """Reason to doubt that config.toml and run.json belong to the same run; empty if there is none."""
    try:
        return records.changed_config(run, info, read_toml(run / CONFIG)) if "config_sha256" in info else ""
    except MatscaleError as damage:
        return str(damage)
