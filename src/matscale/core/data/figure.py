"""A page with the distributions of a dataset's energies, forces and stresses, by source and split."""

from __future__ import annotations

from html import escape
from typing import Any

from matscale.core.data.statistics import PROPERTIES, Property, edge

_SHOWN = ("energy_per_atom", "forces_norm", "forces_component", "stress_max", "stress_component", "n_atoms")


def figure(title: str, tables: dict[str, Any]) -> str:
    """A self-contained HTML page. `tables`: part -> property -> moments and bins (`Tally.plain`)."""
    from plotly.graph_objects import Bar
    from plotly.io import to_html
    from plotly.subplots import make_subplots

    names = [n for n in _SHOWN if any(values[n]["count"] for values in tables.values())]
    titles = [f"{PROPERTIES[n].summary} [{PROPERTIES[n].unit or '1'}]" for n in names]
    plot = make_subplots(rows=-(-len(names) // 2), cols=2, subplot_titles=titles)
    for k, name in enumerate(names):
        for part, values in tables.items():
            if values[name]["count"]:
                x, width, y = _bars(values[name], PROPERTIES[name])
                bar = Bar(
                    x=x, y=y, width=width, name=part, legendgroup=part, showlegend=k == 0, opacity=0.6,
                    visible=True if part in ("train", "validation") or len(tables) == 1 else "legendonly",
                )  # fmt: skip
                plot.add_trace(bar, row=k // 2 + 1, col=k % 2 + 1)
        if PROPERTIES[name].is_log:
            plot.update_xaxes(type="log", row=k // 2 + 1, col=k % 2 + 1)
    plot.update_layout(
        barmode="overlay", height=320 * -(-len(names) // 2), title=f"{escape(title)}: share of values per bin"
    )
    # plotly.js goes into the page: it opens without a network.
    return str(to_html(plot, include_plotlyjs=True, full_html=True))


def _bars(moments: dict[str, Any], prop: Property) -> tuple[list[float], list[float], list[float]]:
    """Centres, widths and heights (share of all values)."""
    edges = [(edge(k, moments, prop), edge(k + 1, moments, prop)) for k, _ in moments["bins"]]
    share = [count / moments["count"] for _, count in moments["bins"]]
    return [(a + b) / 2 for a, b in edges], [b - a for a, b in edges], share
