"""Sealed records: dictionaries that are stored with a digest of their content.

When a record is read, the digest shows whether the content has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matscale.core.errors import MatscaleError
from matscale.core.files import finite, open_file

DIGEST = "digest"
"""Key of the digest in a sealed record. The digest is the SHA-256 of all other content."""


class DamagedRecord(MatscaleError):
    """Error for a file that has changed since it was written, or cannot be read."""


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy `values` and add their digest. Numbers that are not finite become null, since JSON has none."""
    plain = json.loads(json.dumps(finite(dict(values)), allow_nan=False))
    return {**plain, DIGEST: digest_of(plain)}


def read_sealed(path: Path, *, required: bool = False, error: type[MatscaleError] = DamagedRecord) -> dict[str, Any]:
    """Read a file that holds a sealed record.

    A file without a digest is accepted, unless the digest is `required`. Raises `error` if the file cannot be read, or
    if its values have changed since they were written.
    """
    try:
        with open_file(path) as file:
            values = json.loads(file.read())
    except (OSError, ValueError, RecursionError) as fault:
        raise error(f"{path}: is damaged ({fault}).") from None
    if not isinstance(values, dict):
        raise error(f"{path}: is damaged (it holds {type(values).__name__}, not keys and values).")
    if DIGEST in values and values[DIGEST] != digest_of(values):
        raise error(f"{path}: is damaged (its content is not what was written: its digest differs).")
    if required and DIGEST not in values:
        raise error(f"{path}: is damaged (its digest is missing): altered, or written by an older matscale.")
    return values


def digest_of(values: Mapping[str, Any]) -> str:
    """SHA-256 of JSON-ready values. The entry with the digest is left out."""
    rest = {key: value for key, value in values.items() if key != DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
