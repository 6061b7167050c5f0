"""Numbers with no more digits than their interval supports."""

from __future__ import annotations

import math


def decimals(low: float, high: float) -> int | None:
    """Decimals that an interval supports: one digit of its half-width, two where that begins with 1; None if it is no
    interval."""
    half = (high - low) / 2
    if not math.isfinite(half) or half <= 0:
        return None
    exponent = math.floor(math.log10(half))
    leading = half / 10.0**exponent
    return -(exponent - 1) if leading < 2 else -exponent


def number(value: float, low: float, high: float) -> str:
    """`value` as the interval allows: 0.347 in (0.31, 0.39) is `0.35`; `-` where it says nothing."""
    places = decimals(low, high)
    if places is None or not math.isfinite(value):
        return "-"
    if abs(value) >= 1e5 or places > 4:
        digits = max(0, min(math.floor(math.log10(abs(value))) + places, 12)) if value else 0
        return f"{value:.{digits}e}"
    if places <= 0:
        return f"{round(value, places):,.0f}"
    return f"{value:,.{places}f}"


def with_interval(value: float, low: float, high: float) -> str:
    """`0.35 (0.31 to 0.39)`."""
    return f"{number(value, low, high)} ({_end(low, low, high)} to {_end(high, low, high)})"


def _end(end: float, low: float, high: float) -> str:
    if math.isinf(end):
        return "∞" if end > 0 else "-∞"
    return number(end, low, high) if decimals(low, high) is not None else f"{end:.2g}"


def percent(value: float) -> str:
    """A relative change with its sign."""
    return f"{100 * value:+.1f} %" if abs(value) < 0.1 else f"{100 * value:+.0f} %"


def size(value: float) -> str:
    """A number of parameters, structures or FLOPs: `12,500`, `3.1e+15`."""
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if 1 <= abs(value) < 1e6 and abs(value) >= 100 else f"{value:.3g}"
