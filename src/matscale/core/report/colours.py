"""Colours and markers that the colour-blind can tell apart, on white and on black."""

from __future__ import annotations

from collections.abc import Iterable

SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's palette without black and yellow, which vanish on one of the two backgrounds."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down", "pentagon", "hexagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
NEUTRAL = "#808890"
_LOW, _MIDDLE, _HIGH = (53, 92, 170), (124, 123, 120), (222, 160, 32)
"""Ends and middle of a scale for ordered values: as in cividis, blue to yellow, without its darkest and lightest."""


def style(names: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Name -> (colour, marker, dash) of unordered things; colours come again before markers do."""
    return {
        name: (SERIES[k % len(SERIES)], SYMBOLS[k % len(SYMBOLS)], DASHES[k // len(SERIES) % len(DASHES)])
        for k, name in enumerate(sorted(set(names)))
    }


def scale(n: int) -> list[str]:
    """Colours of `n` ordered values, small to large."""
    return [_between(k / (n - 1) if n > 1 else 0.0) for k in range(n)]


def faint(colour: str, alpha: float = 0.16) -> str:
    """The colour for a band."""
    r, g, b = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha})"


def _between(t: float) -> str:
    first, second, share = (_LOW, _MIDDLE, 2 * t) if t < 0.5 else (_MIDDLE, _HIGH, 2 * t - 1)
    return "#" + "".join(f"{round(a + share * (b - a)):02X}" for a, b in zip(first, second))
