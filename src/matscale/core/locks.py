"""One process per run folder: an advisory lock that the kernel drops when its holder dies, so it is never stale."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import IO, Any

from matscale.core.errors import ConfigError
from matscale.core.files import DiskError, open_lock

PATIENCE = 1.0
"""Seconds for which the lock is tried: whoever only looks (`is_locked`) holds it for a moment too."""


class FolderLock:
    """`with FolderLock(folder):` — raises ConfigError, naming the holder, if another process is inside.

    `does` says in that error what the holder does with the folder, `instead` what to do if one does not wait for it.
    """

    def __init__(
        self, folder: Path, does: str = "is training into this folder", instead: str = "choose another with -o"
    ) -> None:
        self.path, self.does, self.instead = folder / ".lock", does, instead
        self.file: IO[str] | None = None

    def __enter__(self) -> FolderLock:
        file = os.fdopen(open_lock(self.path), "r+", encoding="utf-8")
        end = time.monotonic() + PATIENCE
        while not _taken(file, exclusive=True):
            if time.monotonic() < end:
                time.sleep(0.02)
                continue
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise ConfigError(f"{self.path.parent}: {holder} {self.does}. Wait for it, or {self.instead}.")
        self.file = file
        try:
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except OSError as error:
            file.close()
            raise DiskError.of(self.path, error) from error
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.file is not None:
            self.file.close()  # closing releases; the file stays, so that nobody locks a deleted one
            self.file = None


def is_locked(folder: Path) -> bool:
    """Whether a process is inside; nothing is written, so that looking at a run never disturbs it."""
    try:
        file = (folder / ".lock").open(encoding="utf-8")
    except OSError:  # nobody has ever been inside, or we may not look
        return False
    with file:
        return not _taken(file, exclusive=False)


def _taken(file: IO[str], exclusive: bool) -> bool:
    """Take the lock, unless another process has it."""
    import fcntl  # not on Windows, where a run folder is not guarded elsewhere either

    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
