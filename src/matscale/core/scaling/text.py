"""Format numbers for people, with as many digits as their intervals support."""

from __future__ import annotations

import math
from collections.abc import Sequence

UNDETERMINED = "undetermined"
"""Text for a positive number whose interval spans two orders of magnitude or reaches down to 0."""


def decimals(low: float, high: float) -> int | None:
    """Number of decimals that an interval (low, high) supports; None if its width is 0 or not finite.

    The decimals show one digit of the half-width, or two digits if the half-width begins with 1.
    """
    half = (high - low) / 2
    if not math.isfinite(half) or half <= 0:
        return None
    exponent = math.floor(math.log10(half))
    leading = half / 10.0**exponent
    return -(exponent - 1) if leading < 2 else -exponent


def number(value: float, low: float, high: float) -> str:
    """Round `value` to the digits that its interval (low, high) supports; `-` if there is no interval.

    If the interval has no width, as in a table computed from a formula, six digits are shown.

    >>> number(0.347, 0.31, 0.39), number(320, 20, 5000)
    ('0.35', '~300')
    """
    if _is_a_point(value, low, high):
        return f"{value + 0.0:.6g}"  # no minus sign before a zero
    places = decimals(low, high)
    if places is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    if _is_lost(value, low, places):
        return f"~{_significant(value, 1)}"
    return _rounded(value, places)


def with_interval(value: float, low: float, high: float) -> str:
    """Format a value with its interval (low, high); `undetermined` takes the place of a value of unknown magnitude.

    >>> with_interval(0.347, 0.31, 0.39), with_interval(9.0, 0.0, 1.3e6)
    ('0.35 (0.31 to 0.39)', 'undetermined (0 to 1.3e+06)')
    """
    if _is_a_point(value, low, high):
        return f"{number(value, low, high)} (no scatter)"
    places = decimals(low, high)
    shown = UNDETERMINED if _spans(value, low, high, places) else number(value, low, high)
    return f"{shown} ({_end(low, low, places)} to {_end(high, low, places)})"


def _is_a_point(value: float, low: float, high: float) -> bool:
    return math.isfinite(value) and abs(high - low) <= 1e-6 * abs(value)


def _is_lost(value: float, low: float, places: int) -> bool:
    """Whether rounding to `places` decimals would turn a positive number into 0, such as 320 rounded to thousands.

    False for numbers that may have either sign: for them, 0.00 is a valid answer.
    """
    return low >= 0 < value and math.floor(math.log10(value)) + places < 0


def _spans(value: float, low: float, high: float, places: int | None) -> bool:
    if places is None:
        return low != high
    return _is_lost(value, low, places) and high >= 100 * low


def _end(end: float, low: float, places: int | None) -> str:
    if math.isinf(end):
        return "∞" if end > 0 else "-∞"
    if end == 0 or places is None:
        return f"{end:.2g}"
    return _significant(end, 2) if _is_lost(end, low, places) else _rounded(end, places)


def _rounded(value: float, places: int) -> str:
    if abs(value) >= 1e5 or places > 4:
        digits = max(0, min(math.floor(math.log10(abs(value))) + places, 12)) if value else 0
        return f"{value:.{digits}e}"
    if places <= 0:
        return f"{round(value, places):z,.0f}"
    return f"{value:z,.{places}f}"


def _significant(value: float, digits: int) -> str:
    """Round `value` to significant digits: 300, 0.02, 4e+06."""
    kept = float(f"{value:.{digits}g}")
    return f"{kept:,.0f}" if 10 <= abs(kept) < 1e5 else f"{kept:.{digits}g}"


def counted(count: int, thing: str) -> str:
    """A count with its noun in the singular or plural: `1 seed`, `12 seeds`.

    >>> counted(1, "seed"), counted(12, "seed")
    ('1 seed', '12 seeds')
    """
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def listed(names: Sequence[str], most: int = 5, by: str = ", ") -> str:
    """Join names for a sentence; if there are more than `most`, the rest is only counted: `a, b, c, d, e and 58 more`.

    >>> listed(["a", "b", "c"], most=2), listed(["a", "b"])
    ('a, b and 1 more', 'a, b')
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return by.join(name[:60] for name in names[:most]) + more


def percent(value: float) -> str:
    """Format a relative change with its sign: `+1.2 %`, `-31 %`, `+5,600 %`.

    >>> percent(0.012), percent(-0.31), percent(56)
    ('+1.2 %', '-31 %', '+5,600 %')
    """
    if value >= 10:
        return f"+{_significant(100 * value, 2)} %"
    return f"{100 * value:+.1f} %" if abs(value) < 0.1 else f"{100 * value:+.0f} %"


def size(value: float) -> str:
    """Format a number of parameters, structures or FLOPs: `12,500`, `3.1e+15`.

    >>> size(12_500), size(3.1e15)
    ('12,500', '3.1e+15')
    """
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if 1 <= abs(value) < 1e6 and abs(value) >= 100 else f"{value:.3g}"
