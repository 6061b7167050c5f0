"""Cache folder of the user, and a lock so that two processes do not fill the same entry at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from matscale.core import locks

VARIABLE = "MATSCALE_CACHE"
"""Environment variable: folder for datasets that are made or downloaded by name."""


def folder() -> Path:
    """Folder of the cache: `$MATSCALE_CACHE`, or else the platform's cache folder for matscale."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import pooch  # start-up: pooch

    return Path(pooch.os_cache("matscale"))


def lock(path: Path, waiting: Callable[[], None] | None = None) -> AbstractContextManager[None]:
    """Context that holds the lock for filling `path`, so that no other process fills it at the same time.

    `waiting` is called once if another process holds the lock.
    """
    return locks.lock(path.with_name(f".{path.name}.lock"), waiting, VARIABLE)
