"""Plotly figures of runs: training curves, whose axes and groups can be chosen in the page, and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from matscale.core.report.layout import AXES, as_text, figure, rounded, scale, style
from matscale.core.report.records import ALONG, MEASURED, RunRecord
from matscale.core.scaling.curves.collapse import Collapse
from matscale.core.scaling.tables.table import SAME, groups
from matscale.core.scaling.text import size

BY = ("architecture", "size", "data")


def training_curves(runs: Sequence[RunRecord]) -> Any:
    """Plot the training curves of all runs, with one plotly trace per architecture, size and amount of data.

    Gaps separate the runs of a trace. `meta.segments` of a trace has the points of each run, `meta.choices` has other
    quantities for the axes, and `meta.by` has the style of the trace for each grouping.
    """
    looks = _looks(runs)
    cells: dict[tuple[str, int, int], list[int]] = {}
    shown = [k for k, run in enumerate(runs) if run.curve.get("loss")]
    keys = _keys(runs)
    for k in shown:
        cells.setdefault(keys[k], []).append(k)
    first = "architecture" if len({key[0] for key in cells}) > 1 else "size"
    seen: set[str] = set()
    traces = []
    for key in sorted(cells):
        by = {way: looks[way][key[j]] for j, way in enumerate(BY)}
        name, colour, dash = by[first]
        columns, segments = _joined(runs, cells[key])
        traces.append({
            "type": "scatter", "mode": "lines", "x": columns["flops"], "y": columns["loss"], "name": name,
            "legendgroup": name, "showlegend": name not in seen, "line": {"color": colour, "width": 1.1, "dash": dash},
            "text": " · ".join(by[way][0] for way in BY), "hovertemplate": "%{y:.4g} at %{x:.3g}<extra>%{text}</extra>",
            "meta": {
                "segments": segments,
                "by": {way: as_text(look) for way, look in by.items()},
                "choices": {
                    "x": {key: None if key == "flops" else columns[key] for key in ALONG},
                    "y": {key: None if key == "loss" else columns[key] for key in MEASURED},
                },
            },
        })  # fmt: skip
        seen.add(name)
    return figure(traces, ALONG["flops"], MEASURED["loss"][0], meta={"by": first})


def normalised(collapses: Mapping[str, Collapse], index: Mapping[str, int]) -> Any:
    """Plot normalised training curves: loss over final loss, against the completed share of the run.

    A curve is bold if its size deviates from the others in the collapse check.
    """
    looks = style(collapses)
    traces = []
    for name, one in collapses.items():
        for k, curve in enumerate(one.curves):
            is_off = any(_alike(curve.size, place.size) for place in one.off)
            traces.append({
                "type": "scatter", "mode": "lines", "x": rounded(curve.share),
                "y": rounded(np.exp(curve.logs - curve.logs[-1])), "name": name, "legendgroup": name,
                "showlegend": k == 0,
                "line": {"color": looks[name][0], "width": 3 if is_off else 1.1, "dash": looks[name][2]},
                "text": _sizes(curve.size), "hovertemplate": "%{y:.3g} at %{x:.0%}<extra>%{text}</extra>",
                "meta": {"segments": [[index.get(curve.run, -1), 0, len(curve.share)]]},
            })  # fmt: skip
    return figure(traces, "share of the run", "loss over its last", log=(False, True))


def _alike(sizes: Mapping[str, float], place: Mapping[str, float]) -> bool:
    """Whether the sizes of a run are those in `place`, for every variable that `place` has."""
    return all(abs(np.log(sizes[axis] / value)) < SAME for axis, value in place.items())


def _sizes(sizes: Mapping[str, float]) -> str:
    return ", ".join(f"{axis.upper()} = {size(value)}" for axis, value in sizes.items() if axis != "s")


def cost(runs: Sequence[RunRecord]) -> Any:
    """Plot the training FLOPs per atom seen, against the number of parameters."""
    return _scatter(
        runs, lambda run: (run.number("flops") or 0) / (run.number("atoms") or np.inf), "FLOPs per atom seen"
    )


def speed(runs: Sequence[RunRecord]) -> Any:
    """Plot the training FLOPs per second of wall time, over all processes, against the number of parameters."""
    return _scatter(
        runs, lambda run: (run.number("flops") or 0) / (run.number("wall_s") or np.inf), "training FLOPs per second"
    )


def _scatter(runs: Sequence[RunRecord], value: Any, title: str) -> Any:
    looks = style(run.architecture for run in runs if run.info)
    traces = []
    for name, (colour, symbol, _) in looks.items():
        chosen = [k for k, run in enumerate(runs) if run.info and run.architecture == name and run.n and value(run) > 0]
        traces.append({
            "type": "scatter", "mode": "markers", "x": rounded(runs[k].n or 0 for k in chosen),
            "y": rounded(value(runs[k]) for k in chosen), "name": name,
            "marker": {"color": colour, "symbol": symbol, "size": 7},
            "text": [runs[k].name for k in chosen], "hovertemplate": "%{text}<br>%{y:.3g}<extra></extra>",
            "meta": {"runs": chosen},
        })  # fmt: skip
    return figure(traces, AXES["n"], title)


def _joined(runs: Sequence[RunRecord], cell: Sequence[int]) -> tuple[dict[str, list[Any]], list[list[int]]]:
    """Join the curves of several runs with gaps between them, as columns by key.

    Also returns [index of the run, first point, point after the last] for each run.
    """
    columns: dict[str, list[Any]] = {key: [] for key in (*ALONG, *MEASURED)}
    segments = []
    for k in cell:
        start = len(columns["loss"])
        segments.append([k, start, start + len(runs[k].curve["loss"])])
        for key, values in columns.items():
            values += [*runs[k].curve[key], None]
    return columns, segments


def _keys(runs: Sequence[RunRecord]) -> list[tuple[str, int, int]]:
    """Group of each run in each grouping: (architecture, index of the size, index of the amount of data)."""
    sizes, data = (_numbers([getattr(run, axis) for run in runs]) for axis in ("n", "d"))
    return [(run.architecture, n, d) for run, n, d in zip(runs, sizes, data)]


def _numbers(values: Sequence[float | None]) -> list[int]:
    known = np.array([v for v in values if v is not None])
    labels = iter(groups(known).tolist() if len(known) else [])
    return [-1 if v is None else next(labels) for v in values]


def _looks(runs: Sequence[RunRecord]) -> dict[str, dict[Any, tuple[str, str, str]]]:
    """Style of each group of runs, (label, colour, dash), by grouping (one of `BY`) and group."""
    architectures = style(run.architecture for run in runs)
    found: dict[str, dict[Any, tuple[str, str, str]]] = {
        "architecture": {name: (name, colour, dash) for name, (colour, _, dash) in architectures.items()}
    }
    for way, axis, sign in (("size", "n", "N"), ("data", "d", "D")):
        values = [getattr(run, axis) for run in runs]
        labels = np.array(_numbers(values))
        known = np.array([np.nan if v is None else v for v in values])
        colours = scale(int(labels.max(initial=0)) + 1)
        found[way] = {
            k: (f"{sign} = {size(float(np.exp(np.log(known[labels == k]).mean())))}", colours[k], "solid")
            for k in sorted(set(labels.tolist()) - {-1})
        }
        found[way][-1] = (f"{sign} unknown", "#808890", "dot")
    return found


def data_levels(runs: Sequence[RunRecord]) -> tuple[list[int], list[str]]:
    """Index of the amount of data of each run (-1 if unknown), and the label of each index."""
    levels = _numbers([run.d for run in runs])
    looks = _looks(runs)["data"]
    return levels, [looks[k][0].removeprefix("D = ") for k in sorted(set(levels) - {-1})]
