"""Locks between processes, on `filelock`; all of them advisory: the kernel drops one when its holder dies, so none is
ever stale. A lock file stays where it is: a process that waits for one that was deleted would hold another lock.

- `FolderLock`: one process per folder (a run, a study, a dataset); another is refused, and told who is inside.
- `claim`: a run that a sweep is about to train; the lock is handed to the process that trains it.
- `lock`: others wait until the holder is done, and are told that they wait.
- `lock_file`: the same for a file that is open already.
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
"""Lock file in the run folder. The process that trains the run, or is about to, holds it."""
PATIENCE = 1.0
"""Seconds for which a lock is tried: a process that only looks (`is_locked`, `is_claimed`) holds it for a moment."""


class FolderLock:
    """`with FolderLock(folder):` — raises `error`, naming the holder, if another process is inside.

    In that error `does` describes the holder's work in the folder, and `instead` the alternative to waiting.
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
    """Whether a process is inside; nothing is written, so that looking at a run never disturbs it."""
    return _is_held(folder / ".lock")


def claim(run: Path) -> int | None:
    """Claim a run for a process that is about to begin: a locked file descriptor, or None if another process has it.

    The descriptor is handed to the process (`pass_fds`) and closed here. The kernel keeps the lock as long as that
    process lives, even if the launcher ends: the run is never unlocked in between.
    """
    make_folder(run)
    descriptor = open_lock(run / CLAIM)
    if _taken(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def is_claimed(run: Path) -> bool:
    """Whether a process of a sweep, this one or another, works on the run."""
    return _is_held(run / CLAIM)


@contextmanager
def lock(file: Path, waiting: Callable[[], None] | None = None, variable: str | None = None) -> Iterator[None]:
    """Hold the lock on `file`, which is made if needed, against processes and threads.

    `waiting` is called once if another holds it. `variable` names the environment variable that moves the folder, for
    the errors: DiskError where the file cannot be made, DataError where the file system has no locks.
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
    """Lock an open file until it is closed, once no other process has it.

    Raises OSError if the file system has no locks.
    """
    lock_descriptor(file.fileno())


def _taken(descriptor: int) -> bool:
    """Lock an open file until it is closed; False if another process keeps it."""
    end = time.monotonic() + PATIENCE
    while not lock_descriptor(descriptor, blocking=False):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # it was never taken, or may not be looked at
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
    # Shared, which filelock does not offer: two processes that look at once must not see each other.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
