"""What all figures have in common. Colours of text and grid are the page's: it knows whether it is dark."""

from __future__ import annotations

from typing import Any

AXES = {
    "n": "parameters N (without embeddings)",
    "d": "training structures D",
    "c": "training compute C [FLOPs]",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
GRID, TEXT = "#dfe3e8", "#30363d"


def figure(traces: list[Any], x: str, y: str, *, log: tuple[bool, bool] = (True, True), **layout: Any) -> Any:
    """A plotly figure of `traces` with titled axes, logarithmic where `log` (x, y) says so."""
    from plotly.graph_objects import Figure

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
        "xaxis": {**axis, "title": {"text": x}, "type": kinds[0]},
        "yaxis": {**axis, "title": {"text": y}, "type": kinds[1], "nticks": 7},
    }
    return Figure(traces, layout=shared | layout)


def rounded(values: Any) -> list[float | None]:
    """Five significant digits: what a figure can show, in a third of the bytes."""
    return [None if v is None or v != v or abs(v) == float("inf") else float(f"{v:.5g}") for v in map(float, values)]
