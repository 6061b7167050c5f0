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
    """Return `$MATSCALE_CACHE`, or else the platform's cache folder for matscale."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("matscale"))


def lock(path: Path, waiting: Callable[[], None] | None = None) -> AbstractContextManager[None]:
    """Lock for `path`, so that two processes do not fill it at once; see `locks.lock`."""
    return locks.lock(path.with_name(f".{path.name}.lock"), waiting, VARIABLE)
