"""Files that survive a kill: written under a temporary name, flushed to the disk, renamed, the folder flushed too.

A rename without these flushes can leave empty files after a power cut on common file systems.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEMPORARY = ".partial"
"""In the name of everything that is not yet what it is going to be."""


def flush(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` make the file under a temporary name, then put it in place in one move."""
    temporary = path.with_name(f".{path.name}{TEMPORARY}-{os.getpid()}")
    try:
        write(temporary)
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace a text file."""
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, values: Any) -> None:
    """Replace a JSON file; what is not finite becomes null."""
    write_text(path, json.dumps(finite(values), indent=1, allow_nan=False) + "\n")


def finite(values: Any) -> Any:
    """The same plain values with NaN and infinities, which JSON does not know, as None."""
    if isinstance(values, dict):
        return {key: finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite(value) for value in values]
    if isinstance(values, float) and (values != values or values in (float("inf"), float("-inf"))):
        return None
    return values
