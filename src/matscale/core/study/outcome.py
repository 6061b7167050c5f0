"""How a run stands, from its folder alone, and whether a failure is its own or the world's."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matscale.core import errors
from matscale.core.errors import MatscaleError
from matscale.core.locks import is_locked
from matscale.core.runs import info as records
from matscale.core.runs.record import CHECKPOINTS, CONFIG, LOG
from matscale.core.study.claim import is_claimed
from matscale.core.study.launcher import Ended

Status = Literal["planned", "queued", "running", "completed", "stopped", "crashed", "failed", "blocked"]
"""planned: nothing there yet; stopped: saved when it was asked to; crashed: cut off for a reason outside of it; failed:
for one of its own, which would come again; blocked: the run that it branches off has failed."""

INSIDE = frozenset(
    kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MatscaleError)
) - {1, 5, 6}
"""Exit codes of what would happen again: configuration and plugins 2, data 3, non-finite loss 4."""

KILLED = "it was killed, or the machine went down"
"""What the folder of a run that was cut off can tell."""

_MEND = "`matscale train --resume -o {}` takes it from the newest checkpoint."

_OF_ERROR = {
    name: kind.exit_code
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, MatscaleError)
}


@dataclass(frozen=True)
class State:
    """How a run stands."""

    status: Status
    reason: str = ""
    """Why it did not end well."""


def read_info(run: Path) -> dict[str, Any] | None:
    """run.json, or None where there is none that can be read."""
    try:
        return records.read_info(run)
    except MatscaleError:
        return None


def is_at_work(run: Path) -> bool:
    """Whether a process trains the run, or is about to: one of a sweep, or `matscale train` by itself."""
    return is_claimed(run) or is_locked(run)


def state_of(run: Path) -> State:
    """By what the folder says. A run that says that it is running, and that no process is at work on, was killed."""
    return State("running") if is_at_work(run) else _recorded(run)


def _recorded(run: Path) -> State:
    """Of a run that no process is at work on."""
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
    return State("stopped" if status == "stopped" else "completed")


def state_after(ended: Ended) -> State:
    """What the end of a job means for its run: the folder says whether it completed, the exit code why not."""
    state = _recorded(ended.path)
    if state.status == "completed":
        return state
    # On a full disk a process that fails cannot say so in run.json.
    is_silent = state.reason == KILLED and ended.code is not None and _signal(ended.code) is None
    why = ended.reason or ("" if is_silent else state.reason) or _last_line(ended.path) or told(ended.code)
    if ended.code in INSIDE:
        return State("failed", why)
    if state.status == "stopped" or state.status == "failed":
        return State(state.status, why)
    return State(
        "crashed", why if ended.code in (None, 0, 1) else f"{told(ended.code)}; {why}" if why else told(ended.code)
    )


def told(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "it ended without an exit code"
    number = _signal(code)
    if number is None:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"


def _signal(code: int) -> int | None:
    """The signal that ended a process, itself or by way of a shell; None if it ended by itself."""
    return -code if code < 0 else code - 128 if 128 < code < 192 else None


def _last_line(run: Path) -> str:
    """Of what the process printed: an error that came before there was a run.json to put it in."""
    try:
        lines = (run / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
