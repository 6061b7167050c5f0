"""Locks between processes, all of them advisory: the kernel drops one when its holder dies, so none is ever stale.

- `FolderLock`: one process per run folder or study; another is refused, and told who is inside.
- `claim`: a run that a sweep is about to train; the lock is handed to the process that trains it.
- `lock`: others wait until the holder is done, and are told that they wait.
- `lock_file`: the same for a file that is open already.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from matscale.core.errors import ConfigError, DataError
from matscale.core.files import DiskError, make_folder, open_lock

CLAIM = ".worker.lock"
"""Lock file in the run folder. The process that trains the run, or is about to, holds it (flock)."""
PATIENCE = 1.0
"""Seconds for which a lock is tried: a process that only looks (`is_locked`, `is_claimed`) holds it for a moment."""


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
        while not lock_file(file, wait=False):
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
            self.file.close()  # closing releases; the file stays, so that no process locks a deleted one
            self.file = None


def is_locked(folder: Path) -> bool:
    """Whether a process is inside; nothing is written, so that looking at a run never disturbs it."""
    return _is_held(folder / ".lock")


def claim(run: Path) -> int | None:
    """Claim a run for a process that is about to begin: a locked file descriptor, or None if another process has it.

    The descriptor is handed to the process (`pass_fds`) and closed here. The kernel keeps the lock as long as that
    process lives, whatever becomes of the launcher: there is no moment between the two.
    """
    make_folder(run)
    descriptor = open_lock(run / CLAIM)
    end = time.monotonic() + PATIENCE
    while not lock_file(descriptor, wait=False):
        if time.monotonic() > end:
            os.close(descriptor)
            return None
        time.sleep(0.02)
    return descriptor


def is_claimed(run: Path) -> bool:
    """Whether a process of a sweep, this one or another, is at work on the run."""
    return _is_held(run / CLAIM)


@contextmanager
def lock(path: Path, waiting: Callable[[], None] | None = None, variable: str | None = None) -> Iterator[None]:
    """Hold the lock that belongs to `path` (the file `.<name>.lock` beside it), against processes and threads.

    `waiting` is called once if another holds it. `variable` names the environment variable that moves the folder, for
    the errors: DiskError where the file cannot be made, DataError where the file system has no locks.
    """
    file = path.with_name(f".{path.name}.lock")
    try:
        make_folder(file.parent)
        descriptor = open_lock(file)
    except DiskError as error:
        raise error.told(f"Or set {variable} to a folder that can be written to.") if variable else error from None
    try:
        try:
            if not lock_file(descriptor, wait=False):
                if waiting is not None:
                    waiting()
                lock_file(descriptor)
        except OSError as error:
            elsewhere = f"Set {variable} to" if variable else "Choose"
            raise DataError(
                f"{file}: its file system has no locks ({error}). {elsewhere} a folder on a local disk."
            ) from None
        yield
    finally:
        os.close(descriptor)


def lock_file(file: IO[Any] | int, wait: bool = True, shared: bool = False) -> bool:
    """Lock an open file until it is closed. Without `wait`: False if another has it.

    Raises OSError where the file system has no locks.
    """
    import fcntl  # not on Windows

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # it was never taken, or may not be looked at
        return False
    try:
        return not lock_file(descriptor, wait=False, shared=True)
    finally:
        os.close(descriptor)
