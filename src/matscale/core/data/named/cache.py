"""The user's cache folder, and a lock so that two processes do not fill it with the same thing at once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from matscale.core.errors import DataError
from matscale.core.files import DiskError, make_folder, open_lock

VARIABLE = "MATSCALE_CACHE"
"""Environment: the folder for datasets that are made or downloaded by name."""


def folder() -> Path:
    """`$MATSCALE_CACHE`, or the folder that the platform keeps for such things."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("matscale"))


@contextmanager
def lock(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock that belongs to `path` (the file `.<name>.lock` beside it), against processes and threads.

    The operating system releases it when its holder ends, however that happens: no lock is ever stale, and the empty
    file that stays means nothing. `waiting` is called once if somebody else holds it.
    """
    file = path.with_name(f".{path.name}.lock")
    try:
        make_folder(file.parent)
        descriptor = open_lock(file)
    except DiskError as error:
        raise error.told(f"Or set {VARIABLE} to a folder that can be written to.") from None
    try:
        if not _try(descriptor, file):
            if waiting is not None:
                waiting()
            _wait(descriptor, file)
        yield
    finally:
        os.close(descriptor)


def _try(descriptor: int, file: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise _no_locks(file, error) from None
    return True


def _wait(descriptor: int, file: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise _no_locks(file, error) from None


def _no_locks(file: Path, error: OSError) -> DataError:
    return DataError(f"{file}: its file system has no locks ({error}). Set {VARIABLE} to a folder on a local disk.")
