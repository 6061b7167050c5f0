"""Locks between processes, based on `filelock`.

They are advisory, and the kernel releases a lock when its holder dies, so that none is ever stale. Lock files are never
deleted, since a process that waits for a deleted one would get another lock.

- `FolderLock`: one process per folder (a run, a study, a dataset). Another one gets an error that names the holder.
- `claim`: a run that a sweep is about to train. The lock is handed to the process that trains the run.
- `lock`: one process at a time. Others wait until the holder is done, and can report that they wait.
- `lock_file`: the same for a file that is open already, without a report.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor

from matscale.core.errors import ConfigError, DataError, MatscaleError
from matscale.core.files import DiskError, make_folder, open_lock

CLAIM = ".worker.lock"
"""Name of the lock file in a run folder, held by the process that trains the run or is about to."""
PATIENCE = 1.0
"""Time for which a held lock is tried again [s], since `is_locked` and `is_claimed` hold one for a moment."""


class FolderLock:
    """Lock on a folder for a `with` block. Raises `error` that names the holder if another process has the lock.

    In the message, `does` describes the work of the holder in the folder, and `instead` an alternative to waiting.
    """

    def __init__(
        self,
        folder: Path,
        does: str = "is training into this folder",
        instead: str = "choose another with -o",
        error: type[MatscaleError] = ConfigError,
    ) -> None:
        self.path, self.does, self.instead, self.error = folder / ".lock", does, instead, error
        self.file: IO[bytes] | None = None

    def __enter__(self) -> FolderLock:
        file = os.fdopen(open_lock(self.path), "r+b", buffering=0)
        try:
            if not _taken(file.fileno()):
                raise self.error(f"{self.path.parent}: {_holder(file)} {self.does}. Wait for it, or {self.instead}.")
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except BaseException as error:
            file.close()
            if isinstance(error, OSError):
                raise DiskError.of(self.path, error) from error
            raise
        self.file = file
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.file is not None:
            self.file.close()  # closing releases
            self.file = None


def _holder(file: IO[bytes]) -> str:
    with suppress(OSError):  # Windows lets no other process read what is locked
        if text := file.read().decode(errors="replace").strip():
            return text
    return "another process"


def is_locked(folder: Path) -> bool:
    """Whether another process holds the lock of a folder. Nothing is written, so that the check disturbs no run."""
    return _is_held(folder / ".lock")


def claim(run: Path) -> int | None:
    """Claim a run for a process that is about to start: returns a locked file descriptor, or None if it is claimed.

    The descriptor is passed to the process (`pass_fds`) and closed here. The kernel keeps the lock as long as that
    process lives, even if the launcher ends: the run is never unlocked in between.
    """
    make_folder(run)
    descriptor = open_lock(run / CLAIM)
    if _taken(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def is_claimed(run: Path) -> bool:
    """Whether a process of a sweep works on the run."""
    return _is_held(run / CLAIM)


@contextmanager
def lock(file: Path, waiting: Callable[[], None] | None = None, variable: str | None = None) -> Iterator[None]:
    """Context that holds the lock on `file`, which is created if needed, against other processes and threads.

    `waiting` is called once if another holds the lock. `variable`, for error messages, is the environment variable that
    moves the folder. Raises DiskError if the file cannot be created, DataError if the file system has no locks.
    """
    try:
        make_folder(file.parent)
        descriptor = open_lock(file)
    except DiskError as error:
        raise error.told(f"Or set {variable} to a folder that can be written to.") if variable else error from None
    try:
        try:
            if not lock_descriptor(descriptor, blocking=False):
                if waiting is not None:
                    waiting()
                lock_descriptor(descriptor)
        except OSError as error:
            elsewhere = f"Set {variable} to" if variable else "Choose"
            raise DataError(
                f"{file}: its file system has no locks ({error}). {elsewhere} a folder on a local disk."
            ) from None
        yield
    finally:
        os.close(descriptor)


def lock_file(file: IO[Any]) -> None:
    """Lock an open file until it is closed, waiting for other processes."""
    lock_descriptor(file.fileno())


def _taken(descriptor: int) -> bool:
    """Lock an open file until it is closed; False if another process holds the lock."""
    end = time.monotonic() + PATIENCE
    while not lock_descriptor(descriptor, blocking=False):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # it was never taken, or is not readable
        return False
    try:
        return not _is_free(descriptor)
    finally:
        os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return lock_descriptor(descriptor, blocking=False)
    # A shared lock, which filelock lacks: two processes that look at the same time must not see each other.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
