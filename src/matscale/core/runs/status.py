"""Status of a run, read from its folder.

It tells runs that would fail again from runs that were interrupted.
"""

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
- stopped: stopped on request, after saving a checkpoint
- crashed: interrupted for an outside reason
- failed: ended by an error that would occur again
- blocked: the run to start from ended without the needed checkpoint
"""

INSIDE = frozenset(
    kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MatscaleError)
) - {1, 5, 6}
"""Exit codes of errors that would occur again.

They are 2 (configuration and plugins), 3 (data) and 4 (non-finite loss).
"""

KILLED = "it was killed, or the machine went down"
"""Reason for the status of an interrupted run, if its folder shows no other reason."""

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
    """Reason why the run did not complete; or, for a completed run, what is doubtful about it."""


def read_info(run: Path) -> dict[str, Any] | None:
    """Read run.json; None if it is missing or unreadable."""
    try:
        return records.read_info(run)
    except MatscaleError:
        return None


def is_at_work(run: Path) -> bool:
    """Whether a process trains the run, or is about to train it.

    The process may belong to a sweep or to `matscale train`.
    """
    return is_claimed(run) or is_locked(run)


def state_of(run: Path) -> State:
    """Status of a run, read from its folder.

    If run.json says `running`, but no process trains the run, the run was killed: its status is `crashed`.
    """
    return State("running") if is_at_work(run) else recorded(run)


def recorded(run: Path) -> State:
    """Status of a run that no process trains, read from its folder."""
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


def unusable(run: Path, lacks: str) -> str:
    """Message on a run that lacks something because it did not get that far: its status, the reason, what to do."""
    state = state_of(run)
    reason = f" ({state.reason})" if state.reason else ""
    if state.status == "running":
        return f"{run}: {lacks}, since it is at work. Wait for it: `matscale runs list {run}` shows its status."
    cause = "Remove the cause, then go on" if state.status == "failed" else "Go on"
    return f"{run}: {lacks}. Its status is {state.status}{reason}. {cause} with it: matscale train --resume -o {run}"


def _doubt(run: Path, info: dict[str, Any]) -> str:
    """Reason to doubt that config.toml and run.json belong to one run; empty if there is none."""
    try:
        return records.changed_config(run, info, read_toml(run / CONFIG)) if "config_sha256" in info else ""
    except MatscaleError as damage:
        return str(damage)
