"""Outcome of a run whose job has ended, from the exit code and the run folder."""

from __future__ import annotations

import signal
from pathlib import Path

from matscale.core.files import open_file
from matscale.core.runs.record import LOG
from matscale.core.runs.status import INSIDE, KILLED, State, recorded
from matscale.core.study.launcher import Ended


def state_after(ended: Ended) -> State:
    """Determine the state of a run after its job has ended: completed if the folder says so, else by the exit code."""
    state = recorded(ended.path)
    if state.status == "completed":
        return state
    # On a full disk, a failing process cannot write its error to run.json.
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
    """Describe an exit code in words."""
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
    """Signal that ended a process, directly or through a shell; None if it ended by itself."""
    return -code if code < 0 else code - 128 if 128 < code < 192 else None


def _last_line(run: Path) -> str:
    """Last line of the process output, such as an error that occurred before run.json existed."""
    try:
        with open_file(run / LOG) as file:
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
