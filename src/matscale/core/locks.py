"""Locks between processes, based on `filelock`.

The locks are advisory. The kernel releases a lock when its holder dies, so that no lock outlives its process. Lock
files are never deleted: a process that waits for a deleted file would get another lock than a process that makes a new
one.

- `FolderLock`: one process works in a folder (a run, a study, a dataset). Others get an error that names the holder.
- `claim`: lock on a run that a sweep is about to train. The lock is passed to the process that trains the run.
- `lock`: one process at a time. Others wait until the holder is done, and can report that they wait.
- `lock_file`: as `lock`, for a file that is open already, and without a report.
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
"""Name of the lock file of `claim` in a run folder.

The lock is held by the process that trains the run, or by the sweep that is about to start this process.
"""
PATIENCE = 1.0
"""Time for which a lock is tried again if another process has it [s].

`is_locked` and `is_claimed` hold a lock for a moment.
"""


class FolderLock:
    """Lock on a folder for a `with` block. If another process has the lock, raises `error` that names it.

    In the message, `does` describes the work of the holder in the folder, and `instead` an alternative to waiting.
    """

    def __init__(
        self,
        folder: Path,
        does: str = "is training into this folder",
        instead: str = "choose another folder with -o",
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
    """Whether another process has the `FolderLock` of a folder. Nothing is written to the folder."""
    return _is_held(folder / ".lock")


def claim(run: Path) -> int | None:
    """Lock a run for a process that is about to start. Returns a file descriptor, or None if the run is claimed.

    Pass the descriptor to the new process (`pass_fds`) and close it here. The kernel keeps the lock as long as the new
    process lives, even if the launcher ends. Therefore the run is locked all the time.
    """
    make_folder(run)
    descriptor = open_lock(run / CLAIM)
    if _taken(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def is_claimed(run: Path) -> bool:
    """Whether a process has the lock of `claim` on a run."""
    return _is_held(run / CLAIM)


@contextmanager
def lock(file: Path, waiting: Callable[[], None] | None = None, variable: str | None = None) -> Iterator[None]:
    """Context that holds the lock on `file` against other processes and threads. The file is created if needed.

    `waiting` is called once if another process or thread has the lock. `variable` is the environment variable by which
    users can move the folder of the file; error messages name it. Raises DiskError if the file cannot be created, and
    DataError if the file system has no locks.
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
    """Lock an open file until it is closed. If another process has the lock, wait for it."""
    lock_descriptor(file.fileno())


def _taken(descriptor: int) -> bool:
    """Lock an open file until it is closed. Returns False if another process keeps the lock for `PATIENCE`."""
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
        import fcntl  # not on Windows
    except ImportError:  # Windows
        return lock_descriptor(descriptor, blocking=False)
    # A shared lock, which filelock lacks: two processes that look at the same time must not see each other.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
