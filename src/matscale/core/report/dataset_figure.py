"""Page with the distributions of the energies, forces and stresses in a dataset, by source and by part of the split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from matscale.core.data.store.statistics import PROPERTIES, Property, edge
from matscale.core.report.layout import as_text

_SHOWN = ("energy_per_atom", "forces_norm", "forces_component", "stress_max", "stress_component", "n_atoms")
_COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#999999")
"""Okabe and Ito's palette, which the colour-blind can tell apart."""
CONTROLS = {
    "responsive": True,
    "displaylogo": False,
    "plotlyServerURL": "",
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
}
"""Settings of the plotly figure, with a list of its buttons.

Buttons are listed one by one, since plotly's default set links to its website and can upload a figure.
"""


def figure(title: str, tables: dict[str, Any]) -> str:
    """Make an HTML page that needs no other file, with histograms of the properties of a dataset.

    `tables` has the moments and bins (`PropertySummaries.plain`) of every property, for every part of the dataset. A
    part has one colour in all panels. Heights are logarithmic where the values are not, so that tails can be seen.
    """
    from plotly.graph_objects import Scatter  # start-up: plotly
    from plotly.io import to_html
    from plotly.subplots import make_subplots

    names = [n for n in _SHOWN if any(values[n]["count"] for values in tables.values())]
    titles = [f"{PROPERTIES[n].summary}{f' [{unit}]' if (unit := PROPERTIES[n].unit) else ''}" for n in names]
    n_rows = -(-len(names) // 2)
    plot = make_subplots(rows=n_rows, cols=2, subplot_titles=titles, vertical_spacing=0.32 / n_rows)
    shown = ("train", "validation") if len(tables) > 1 else tuple(tables)
    labels = dict(zip(tables, _short(list(tables))))
    for k, name in enumerate(names):
        place = {"row": k // 2 + 1, "col": k % 2 + 1}
        for number, (part, values) in enumerate(tables.items()):
            if values[name]["count"]:
                x, y = _outline(values[name], PROPERTIES[name])
                line = Scatter(
                    x=x, y=y, name=as_text(labels[part]), legendgroup=part, showlegend=k == 0, mode="lines",
                    line={"shape": "hv", "color": _COLOURS[number % len(_COLOURS)], "width": 1.5},
                    visible=True if part in shown else "legendonly",
                )  # fmt: skip
                plot.add_trace(line, **place)
        is_log = PROPERTIES[name].is_log
        plot.update_xaxes(type="log" if is_log else "linear", exponentformat="power", **place)
        plot.update_yaxes(type="linear" if is_log else "log", exponentformat="power", title="share of values", **place)
    plot.update_layout(
        title={"text": as_text(title), "x": 0.01, "y": 0.99, "yanchor": "top"},
        template="plotly_white",
        height=340 * n_rows + 120,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.05, "x": 0},
        margin={"t": 150},
    )
    # plotly.js is included, so that the page works without a network; with a fixed id, equal data give equal pages.
    return str(to_html(plot, include_plotlyjs=True, full_html=True, div_id="distributions", config=CONTROLS))


def _short(names: Sequence[str]) -> list[str]:
    """Shorten paths by the folders and the ending that all have in common; other names stay."""
    paths = [name for name in names if os.sep in name]
    if len(paths) < 2:
        return [name.rsplit(os.sep, 1)[-1] if name in paths else name for name in names]
    parts = [path.split(os.sep) for path in paths]
    front, back = _shared(parts), _shared([p[::-1] for p in parts])
    cut = {path: os.sep.join(p[front : len(p) - back] or p[-1:]) for path, p in zip(paths, parts)}
    return [cut.get(name, name) for name in names]


def _shared(parts: list[list[str]]) -> int:
    """Number of leading elements that all sequences share."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*parts)))


def _outline(moments: dict[str, Any], prop: Property) -> tuple[list[float], list[float | None]]:
    """Outline of a histogram in steps: left edges, and heights as a share of all values, interrupted at empty bins."""
    x: list[float] = []
    y: list[float | None] = []
    before: int | None = None
    for number, count in moments["bins"]:
        if before is not None and number != before + 1:
            x.append(edge(before + 1, moments, prop))
            y.append(None)
        share = count / moments["count"]
        x += [edge(number, moments, prop), edge(number + 1, moments, prop)]
        y += [share, share]
        before = number
    return x, y
