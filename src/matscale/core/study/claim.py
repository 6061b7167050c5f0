"""A run is claimed from before its process begins until it ends, so that no two sweeps ever train the same one.

The launcher locks a file of the run folder and hands the open file to the process that it starts: the kernel keeps the
lock as long as that process lives, whatever becomes of the launcher, and drops it when the process is gone. There is
no moment between the two, and no lock that is stale.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from matscale.core.files import make_folder, open_lock
from matscale.core.study.launcher import CLAIM

PATIENCE = 1.0
"""Seconds for which a claim is tried: whoever only looks (`is_claimed`) holds the lock for a moment too."""


def claim(run: Path) -> int | None:
    """A locked file descriptor, to be handed to a process (`pass_fds`) and closed here; None if somebody has it."""
    make_folder(run)
    descriptor = open_lock(run / CLAIM)
    end = time.monotonic() + PATIENCE
    while not _locked(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > end:
            os.close(descriptor)
            return None
        time.sleep(0.02)
    return descriptor


def is_claimed(run: Path) -> bool:
    """Whether a process of a sweep, this one or another, is at work on the run."""
    try:
        descriptor = os.open(run / CLAIM, os.O_RDONLY)
    except OSError:  # nobody has ever tried, or we may not look
        return False
    try:
        return not _locked(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
