"""Parse JSON and TOML files safely, with limits on size and depth.

The parsers of Python raise RecursionError for a thousand brackets, and ValueError for a number of 5,000 digits. They
accept half a character ("\\ud800"), which cannot be written to a file afterwards. Here, all of these raise Malformed.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matscale.core.errors import ConfigError, DataError, MatscaleError
from matscale.core.files import open_file

MAX_BYTES = 64 << 20
"""Largest accepted size of a file with settings or with a record [bytes]."""
MAX_DEPTH = 64
"""Largest accepted depth of nested lists and tables."""
MAX_INTEGER = 1 << 63
"""Least integer that is refused; such integers are meaningless and would overflow."""

Error = type[MatscaleError]


class Malformed(ValueError):
    """Error for a text that is not JSON or TOML, or exceeds the limits.

    The message gives the reason, but not the file.
    """


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text. Raises Malformed if it is not valid.

    >>> try: parse_json(100 * "[" + 100 * "]")
    ... except Malformed as error: print(error)
    nested deeper than 64 levels
    """
    return _parsed(text, json.loads)


def parse_toml(text: str | bytes) -> dict[str, Any]:
    """Parse a TOML text. Raises Malformed if it is not valid.

    >>> parse_toml("budget.steps = 100")
    {'budget': {'steps': 100}}
    """
    result: dict[str, Any] = _parsed(text, tomllib.loads)
    return result


def read_json(path: Path, error: Error = DataError, hint: str = "") -> Any:
    """Read a JSON file. Raises `error` with the path, what is wrong, and the sentence `hint`."""
    return _read(path, parse_json, "JSON", error, hint)


def read_toml(path: Path, error: Error = ConfigError, hint: str = "") -> dict[str, Any]:
    """Read a TOML file. Raises `error` with the path, what is wrong, and the sentence `hint`."""
    result: dict[str, Any] = _read(path, parse_toml, "TOML", error, hint)
    return result


def read_bytes(path: Path, error: Error = DataError, most: int = MAX_BYTES) -> bytes:
    """Read a file of at most `most` bytes.

    Raises `error`, which names the path, if the file is larger or cannot be read.
    """
    try:
        with open_file(path) as file:
            content = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else b"0" * (most + 1)
    except (OSError, ValueError) as fault:  # ValueError: a name with a NUL byte
        raise error(f"{path}: cannot be read ({fault}).") from None
    if len(content) > most:
        raise error(
            f"{path}: is larger than {most:,} bytes, too large for settings or records. It may be another file."
        )
    return content


def _read(path: Path, parse: Callable[[bytes], Any], form: str, error: Error, hint: str) -> Any:
    content = read_bytes(path, error)
    try:
        return parse(content)
    except Malformed as fault:
        raise error(f"{path}: is not valid {form} ({fault}). {hint}".rstrip()) from None


def _parsed(text: str | bytes, loads: Callable[[str], Any]) -> Any:
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        value = loads(text)
    except UnicodeDecodeError as fault:
        raise Malformed(f"not UTF-8: byte {fault.start} is 0x{fault.object[fault.start]:02x}") from None
    except RecursionError:
        raise Malformed(f"nested deeper than {MAX_DEPTH} levels") from None
    except (ValueError, OverflowError) as fault:  # the parsers' own errors, and integers of thousands of digits
        raise Malformed(str(fault)[:300]) from None
    check_plain(value)
    return value


def check_plain(value: Any, depth: int = MAX_DEPTH) -> None:
    """Check values that come from a file.

    Raises Malformed for deep nesting, for integers out of range, and for text that UTF-8 cannot encode.
    """
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict | list):
        if depth == 0:
            raise Malformed(f"nested deeper than {MAX_DEPTH} levels")
        for item in value.values() if isinstance(value, dict) else value:
            if not isinstance(item, float):  # most values are
                check_plain(item, depth - 1)
        if isinstance(value, dict):
            for key in value:
                _check_text(key)
    elif isinstance(value, int) and not -MAX_INTEGER <= value < MAX_INTEGER:
        raise Malformed(f"the whole number {str(value)[:12]}... is out of range")


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise Malformed(f"incomplete character (surrogate) in {text[:40]!r}") from None
