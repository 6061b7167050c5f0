"""Page that shows a replayed table: error of each strategy against the budget that it spent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from matscale.core.report.dataset_figure import CONTROLS
from matscale.core.report.layout import as_text
from matscale.core.scaling.allocation.simulate import WAYS, Score

_COLOURS = {"choose": "#0072B2", "random": "#999999", "grid": "#E69F00", "cost": "#009E73"}
_PANELS = {"r2": "R² of the held-out runs", "error": "error of the held-out runs, ln L"}


def figure(title: str, scores: Sequence[Score]) -> str:
    """Make an HTML page that needs no other file, with a line and a band for each strategy.

    The line is the mean over the replays, the band their range.
    """
    from plotly.graph_objects import Scatter  # start-up: plotly
    from plotly.io import to_html
    from plotly.subplots import make_subplots

    plot = make_subplots(rows=1, cols=2, subplot_titles=list(_PANELS.values()))
    for way in [way for way in WAYS if any(score.way == way for score in scores)]:
        seeds = sorted({score.seed for score in scores if score.way == way})
        replays = [[score for score in scores if (score.way, score.seed) == (way, seed)] for seed in seeds]
        spent = np.mean([[score.spent for score in one] for one in replays], axis=0)
        for column, name in enumerate(_PANELS, start=1):
            values = np.array([[getattr(score, name) for score in one] for one in replays])
            values = np.maximum(values, -1.0) if name == "r2" else values
            there_and_back = [*spent, *spent[::-1]], [*values.max(axis=0), *values.min(axis=0)[::-1]]
            band = Scatter(
                x=there_and_back[0], y=there_and_back[1], fill="toself", fillcolor=_COLOURS[way], opacity=0.15,
                line={"width": 0}, hoverinfo="skip", legendgroup=way, showlegend=False,
            )  # fmt: skip
            line = Scatter(
                x=spent, y=values.mean(axis=0), name=way, legendgroup=way, showlegend=column == 1,
                mode="lines+markers", line={"color": _COLOURS[way]},
            )  # fmt: skip
            plot.add_traces([band, line], rows=1, cols=column)
    plot.update_xaxes(type="log", title="cost of the runs bought", exponentformat="power")
    plot.update_xaxes(dtick="D2")  # 1, 2, 5: nine labels a decade run into each other
    plot.update_yaxes(type="log", dtick="D2", row=1, col=2)
    plot.update_layout(title=as_text(title), template="plotly_white", height=460)
    return str(to_html(plot, include_plotlyjs=True, full_html=True, div_id="replay", config=CONTROLS))
