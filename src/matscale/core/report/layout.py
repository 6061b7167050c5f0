"""Layout that all figures of a report have. The page sets the colours of text and grid for light or dark mode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import escape

AXES = {
    "n": "parameters N (without embeddings)",
    "d": "training structures D",
    "c": "training compute C [FLOPs]",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
WHOLE = {"exponentformat": "SI", "minexponent": 5, "minorloglabels": "complete"}
GRID, TEXT = "#dfe3e8", "#30363d"


def as_text(value: Any) -> Any:
    """Make plotly show a string, or the strings of a list, letter by letter, since it reads text as a kind of HTML.

    Strings of `Markup` and other values stay.

    >>> as_text(["<b>&", 1.5])
    [Markup('&lt;b&gt;&amp;'), 1.5]
    """
    if isinstance(value, list | tuple):
        return [as_text(one) for one in value]
    return escape(value) if isinstance(value, str) else value


def with_texts(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Trace whose name, texts and categories are shown letter by letter; templates use them as `%{text}`."""
    return {**trace, **{key: as_text(trace[key]) for key in ("name", "text", "x", "y") if key in trace}}


def figure(traces: list[Any], x: str, y: str, *, log: tuple[bool, bool] = (True, True), **layout: Any) -> Any:
    """Make a plotly figure of `traces`, with axes titled `x` and `y`; `log` says for each whether it is logarithmic."""
    from plotly.graph_objects import Figure  # start-up: plotly

    axis = {
        "gridcolor": GRID, "linecolor": GRID, "zeroline": False, "ticks": "outside", "ticklen": 4, "tickcolor": GRID,
        "exponentformat": "power", "automargin": True, "showline": True, "minor": {"ticks": "outside", "ticklen": 2,
        "tickcolor": GRID},
    }  # fmt: skip
    kinds = ["log" if is_log else "linear" for is_log in log]
    shared: dict[str, Any] = {
        "template": "none",
        "font": {"family": FONT, "size": 12, "color": TEXT},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 16, "t": 12, "b": 48},
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "itemsizing": "constant"},
        "xaxis": {**axis, "title": {"text": as_text(x)}, "type": kinds[0]},
        # Whole numbers between decades, not their first digits: a multiple of 0.5 would read as 5.
        "yaxis": {**axis, "title": {"text": as_text(y)}, "type": kinds[1], "nticks": 7, **WHOLE},
    }
    return Figure([with_texts(trace) for trace in traces], layout=shared | layout)


def rounded(values: Any) -> list[float | None]:
    """Round to five significant digits, which are enough for a figure and take a third of the bytes."""
    return [None if v is None or v != v or abs(v) == float("inf") else float(f"{v:.5g}") for v in map(float, values)]


SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's palette without black and yellow, which are invisible on one of the two backgrounds."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down", "pentagon", "hexagon")

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

NEUTRAL = "#808890"

_LOW, _MIDDLE, _HIGH = (53, 92, 170), (124, 123, 120), (222, 160, 32)
"""Low end, middle and high end of the colour scale for ordered values: cividis without darkest and lightest colours."""


def style(names: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Colour, marker and dash for each of `names`, by name.

    If there are more names than colours, colours repeat before markers do.
    """
    return {
        name: (SERIES[k % len(SERIES)], SYMBOLS[k % len(SYMBOLS)], DASHES[k // len(SERIES) % len(DASHES)])
        for k, name in enumerate(sorted(set(names)))
    }


def scale(n: int) -> list[str]:
    """Colours of `n` ordered values, from the smallest to the largest."""
    return [_between(k / (n - 1) if n > 1 else 0.0) for k in range(n)]


def faint(colour: str, alpha: float = 0.16) -> str:
    """Transparent version of a colour, for a band."""
    r, g, b = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha})"


def _between(t: float) -> str:
    first, second, share = (_LOW, _MIDDLE, 2 * t) if t < 0.5 else (_MIDDLE, _HIGH, 2 * t - 1)
    return "#" + "".join(f"{round(a + share * (b - a)):02X}" for a, b in zip(first, second))
