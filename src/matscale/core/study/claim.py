"""A run is claimed from before its process begins until it ends, so that no two sweeps ever train the same one.

The launcher locks a file of the run folder and hands the open file to the process that it starts: the kernel keeps the
lock as long as that process lives, whatever becomes of the launcher, and drops it when the process is gone. There is
no moment between the two, and no lock that is stale.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from matscale.core.study.launcher import CLAIM


def claim(run: Path) -> int | None:
    """A locked file descriptor, to be handed to a process (`pass_fds`) and closed here; None if somebody has it."""
    run.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run / CLAIM, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_claimed(run: Path) -> bool:
    """Whether a process of a sweep, this one or another, is at work on the run."""
    if not (run / CLAIM).exists():
        return False
    descriptor = claim(run)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False
