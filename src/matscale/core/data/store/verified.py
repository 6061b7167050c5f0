"""Check each file only once: a stamp records that a file had the right SHA-256 and contents.

The stamp of `<folder>/<name>` is the file `<folder>/.verified/<name>.json`. If that folder cannot be written, the stamp
is in the user's cache folder. The stamp holds size, mtime, ctime and inode of the file. Any write to the file changes
one of them: programs can reset mtime, but not ctime. A copied or moved file is checked again.

A stamp does not detect bits that a disk loses without a write; `matscale data info --verify` ignores stamps and reads
everything.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from matscale.core.data.named import cache
from matscale.core.errors import MatscaleError
from matscale.core.files import sha256_of, write_json
from matscale.core.locks import lock_file
from matscale.core.progress import Reporter
from matscale.core.threads import usable_cores

T = TypeVar("T")

CHECKS = 1
"""Version of the checks. Raise it when checks are added, so that files with older stamps are checked again."""
SETTLED_NS = 2_000_000_000
"""Least time [ns] between the last change of a file and its check, so that the file gets a stamp.

Clocks of file systems tick in up to two seconds: a change soon after the check could leave the same time in the file
system.
"""
FOLDER = ".verified"
_LONG = 1.0
"""Duration of checking after which `progress` reports it [s]."""


def check_once(path: Path, digest: str, inspect: Callable[[], object], against: str = "", again: bool = False) -> bool:
    """Check a file, unless it has a stamp: compare its SHA-256 with `digest`, and call `inspect` for its contents.

    `against` identifies other data with which `inspect` compares the file. With `again`, stamps are ignored. If several
    processes check a file at once, all but the first wait. Returns whether the file was read. Raises ValueError that
    says what is wrong, any error of `inspect`, and OSError for a file that cannot be read.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        raise ValueError("is not a file" if path.exists() else "is missing")
    facts = {"checks": CHECKS, "sha256": digest, "against": against}
    if not again and _is_stamped(path, facts | _identity(os.stat(path))):
        return False
    with open(path, "rb") as file:
        with suppress(OSError):  # a file system without locks: several processes may then check the same file
            lock_file(file)
        began, identity = time.time_ns(), _identity(os.fstat(file.fileno()))
        if not again and _is_stamped(path, facts | identity):
            return False
        try:
            if sha256_of(file) != digest:
                raise ValueError("has changed since it was written: its SHA-256 differs from that in the manifest")
            inspect()
        except ValueError:
            _forget(path)
            raise
        if _identity(os.stat(path)) == identity and identity["ctime_ns"] < began - SETTLED_NS:
            _stamp(path, facts | identity)
    return True


def _identity(stat: os.stat_result) -> dict[str, Any]:
    return {
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
    }


def _places(path: Path) -> Iterator[Path]:
    """Possible paths of the stamp of a file: beside the file, and in the user's cache folder."""
    yield path.parent / FOLDER / f"{path.name}.json"
    yield cache.folder() / "verified" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.json"


def _is_stamped(path: Path, stamp: dict[str, Any]) -> bool:
    return any(_read(place) == stamp for place in _places(path))


def _read(place: Path) -> Any:
    try:
        return json.loads(place.read_text(encoding="utf-8")) if place.is_file() else None
    except (OSError, ValueError, RecursionError):  # a damaged stamp counts as missing
        return None


def _stamp(path: Path, stamp: dict[str, Any]) -> None:
    for place in _places(path):
        with suppress(OSError, MatscaleError):
            place.parent.mkdir(parents=True, exist_ok=True)
            write_json(place, stamp)
            return


def _forget(path: Path) -> None:
    for place in _places(path):
        with suppress(OSError):
            place.unlink(missing_ok=True)


def at_once(check: Callable[[int], T], paths: Sequence[Path], what: str, progress: Reporter) -> Iterator[T]:
    """Run `check(k)` for each file k = 0, 1, ... of `paths`, in threads, and yield the results in order.

    There is at most one thread per core. If it takes more than a second, `progress` reports `what` and the MiB done.
    """
    sizes = [path.stat().st_size if path.is_file() else 0 for path in paths]
    done, began = 0, time.monotonic()
    # Hashing and NumPy let other threads run.
    with ThreadPoolExecutor(min(usable_cores(), max(len(paths), 1))) as pool:
        for size, result in zip(sizes, pool.map(check, range(len(paths)))):
            done += size
            if time.monotonic() - began > _LONG:
                progress.stage(what, done >> 20, sum(sizes) >> 20)
            yield result
