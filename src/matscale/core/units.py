"""Parse numbers with units as people write them: `1M` parameters, `2e15` FLOPs, `90s`, `30m`, `2h`."""

from __future__ import annotations

import re
from typing import Any

_COUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
LARGEST_MODEL = 1e13
"""Largest accepted number of parameters; a larger one counts as a typing error."""
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z]*)\s*")

_IN_NAME = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)([kMGBTPE]?)(?![A-Za-z0-9])|(?<![0-9.])(\d+)")


def parse_count(value: Any) -> Any:
    """Parse a count such as `1.5M`. A number is returned unchanged.

    Raises ValueError with examples for any other text.

    >>> parse_count("1.5M"), parse_count("2e15"), parse_count(12_000)
    (1500000.0, 2000000000000000.0, 12000)
    """
    return _parse(value, _COUNTS, "a count such as 30k, 1M or 2e15")


def by_number(name: str) -> list[tuple[int, float, str]]:
    """Sort key of a name in which numbers, also those with a unit, are compared by value.

    >>> sorted(["fcn-30k-seed10", "fcn-3k-seed0", "fcn-13.9k-seed0", "fcn-30k-seed9", "fcn-1M-lr1e-05"], key=by_number)
    ['fcn-3k-seed0', 'fcn-13.9k-seed0', 'fcn-30k-seed9', 'fcn-30k-seed10', 'fcn-1M-lr1e-05']
    >>> sorted(["fcn-10k-66d54c50", "fcn-3k-0c72867a"], key=by_number)
    ['fcn-3k-0c72867a', 'fcn-10k-66d54c50']
    """
    parts, end = list[tuple[int, float, str]](), 0
    for found in _IN_NAME.finditer(name):
        parts += [(1, 0.0, name[end : found.start()]), (0, float(found[1] or found[3]) * _COUNTS[found[2] or ""], "")]
        end = found.end()
    return [*parts, (1, 0.0, name[end:])]


def parse_parameters(value: Any) -> int:
    """Parse a number of parameters such as `30k`.

    Raises ValueError for any other text, and for a number below 1 or above 10T.

    >>> parse_parameters("30k"), parse_parameters("1.5M"), parse_parameters(12_000)
    (30000, 1500000, 12000)
    """
    try:
        count: int = round(parse_count(value))
    except (ValueError, TypeError, OverflowError):  # no number; 1e999
        count = 0
    if not 1 <= count <= LARGEST_MODEL:
        raise ValueError(
            f"{value!r} is not a number of parameters. Write for example 30k, 1M, 2.5e6 or 12000, at most 10T."
        )
    return count


def parse_seconds(value: Any) -> Any:
    """Parse a time such as `30m` to seconds. A number is returned unchanged: it is in seconds.

    Raises ValueError with examples for any other text.

    >>> parse_seconds("90s"), parse_seconds("30m"), parse_seconds("2h")
    (90.0, 1800.0, 7200.0)
    """
    return _parse(value, _SECONDS, "a time such as 90, 90s, 30m or 2h")


def _parse(value: Any, suffixes: dict[str, float], wanted: str) -> Any:
    if not isinstance(value, str):
        return value
    match = _NUMBER.fullmatch(value)
    if match is None or match[2] not in suffixes:
        raise ValueError(f"expected {wanted}")
    return float(match[1]) * suffixes[match[2]]
