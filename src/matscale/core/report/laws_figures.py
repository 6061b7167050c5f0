"""Plotly figures of laws: runs, means of sizes, laws with bands, baselines.

`meta.runs` of a trace has the index of the run of each point; clicks and selections in the page find runs by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from matscale.core.report.analysis import levels
from matscale.core.report.layout import AXES, DASHES, NEUTRAL, as_text, faint, figure, rounded, scale, style
from matscale.core.report.words import symbol
from matscale.core.scaling.comparison.cheaper import BEST, Multiplier, facing
from matscale.core.scaling.comparison.compare import Comparison
from matscale.core.scaling.frontier import curves
from matscale.core.scaling.result import Fit, bars
from matscale.core.scaling.tables.table import Table
from matscale.core.scaling.text import size
from matscale.core.scaling.verdict import LOCAL_SLOPE

UNITS = {
    "loss": ("validation loss", 1.0),
    "energy": ("energy MAE [meV/atom]", 1e3),
    "forces": ("forces MAE [meV/Å]", 1e3),
    "stress": ("stress MAE [meV/Å³]", 1e3),
}
"""Title of the axis, and factor from eV units, for each target."""
LINE = 0.055
"""Height of a line of text in a small figure, as a share of its y axis."""
BEYOND = 2.0
"""Factor by which a law is drawn beyond the smallest and the largest point."""


def against(
    table: Table, fits: Sequence[Fit], axis: str, index: Mapping[str, int], names: Sequence[str], target: str = "loss"
) -> Any:
    """Plot the error of every run against `axis`, with the laws in this variable.

    `index` gives the position of each run in the report by its path; `names` has the names of the runs by position.
    """
    title, factor = UNITS[target]
    ends = table.ends()
    ends = ends.take(np.isfinite(ends[axis]))
    looks = style(table.architectures)
    traces = _baselines(table, target, ends, axis, factor)
    for name in table.architectures:
        mine = [fit for fit in fits if fit.architecture == name]
        for fit in mine:
            traces += _law(fit, axis, looks[name], factor)
        traces += _runs(ends.of_architecture(name), name, axis, looks[name], mine, index, names, factor)
    if axis == "c" and table.has_curves and target == "loss":
        traces = [*_paths(table, looks), *traces]
    return figure(traces, AXES[axis], title)


def joint(fit: Fit, index: Mapping[str, int], names: Sequence[str]) -> Any:
    """Plot a law in n and d as loss against n, with one line for each amount of data."""
    table = fit.table
    level = levels(table, "d")
    colours = scale(int(level.max()) + 1)
    grid = np.geomspace(*_wider(*fit.range["n"]), 60)
    traces: list[dict[str, Any]] = []
    for k, colour in enumerate(colours):
        rows = level == k
        d = float(np.exp(np.log(table["d"][rows]).mean()))
        label = f"D = {size(d)}"
        centre = fit.predict({"n": grid, "d": d})[0]
        line = {"color": colour, "width": 1.6, "dash": "solid" if fit.is_law else "dot"}
        meta = {"architecture": fit.architecture, "d": d}
        shared = {"legendgroup": label, "type": "scatter"}
        traces.append({
            **shared, "x": rounded(grid), "y": rounded(centre), "mode": "lines", "line": line, "name": label,
            "showlegend": False, "hoverinfo": "skip", "meta": meta,
        })  # fmt: skip
        traces.append({
            **shared, "x": rounded(table["n"][rows]), "y": rounded(table["loss"][rows]), "mode": "markers",
            "marker": {"color": colour, "size": 8, "symbol": style(map(str, range(len(colours))))[str(k)][1]},
            "name": label, **_hover(table.take(rows), index, names, fit=fit), "meta": _meta(table.take(rows), index),
        })  # fmt: skip
    return figure(traces, AXES["n"], "validation loss")


def residuals(
    table: Table, fits: Sequence[Fit], axis: str, index: Mapping[str, int], names: Sequence[str]
) -> Any | None:
    """Plot the relative distance of each run from the laws [%] against `axis`; None if there is no law."""
    looks = style(table.architectures)
    traces: list[dict[str, Any]] = []
    for fit in fits:
        colour, symbol, _ = looks[fit.architecture]
        part = fit.table.ends()
        part = part.take(np.isfinite(part[axis]))
        at = {a: part[a] for a in fit.axes} if len(fit.axes) > 1 else part[axis]
        off = 100.0 * (part["loss"] / fit.predict(at)[0] - 1.0)
        traces.append({
            "type": "scatter", "x": rounded(part[axis]), "y": rounded(off), "mode": "markers",
            "name": f"{fit.architecture}, {fit.law.name}", "legendgroup": fit.architecture,
            "marker": {"color": colour, "symbol": symbol, "size": 7},
            **_hover(part, index, names, fit=fit), "meta": _meta(part, index),
        })  # fmt: skip
    if not traces:
        return None
    ends = np.concatenate([fit.table.ends()[axis] for fit in fits])
    low, high = _wider(float(ends.min()), float(ends.max()), 1.3)
    zero = {
        "type": "scatter", "x": rounded([low, high]), "y": [0, 0], "mode": "lines", "hoverinfo": "skip",
        "line": {"color": NEUTRAL, "width": 1}, "showlegend": False,
    }  # fmt: skip
    return figure([zero, *traces], AXES[axis], "run / law − 1 [%]", log=(True, False))


def exponents(fits: Sequence[Fit], architectures: Sequence[str]) -> Any:
    """Plot the exponents of all laws with their intervals, one row each; a marker is open if no law is claimed."""
    looks = style(architectures)
    traces = []
    rows = [_row(fit, name) for fit in fits for name in fit.law.exponents[:2]]
    for architecture in architectures:
        chosen = [(fit, name) for fit in fits if fit.architecture == architecture for name in fit.law.exponents[:2]]
        if not chosen:
            continue
        colour, symbol, _ = looks[architecture]
        value = np.array([fit.parameters[name] for fit, name in chosen])
        low, high = np.array([fit.intervals[name] for fit, name in chosen]).T
        traces.append({
            "type": "scatter", "mode": "markers", "x": rounded(value),
            "y": [_row(fit, name) for fit, name in chosen],
            "error_x": {
                "type": "data", "array": rounded(high - value), "arrayminus": rounded(value - low), "color": colour,
                "thickness": 1.6, "width": 4,
            },
            "marker": {
                "color": colour, "size": 9, "line": {"width": 2, "color": colour},
                "symbol": [symbol if fit.is_law else f"{symbol}-open" for fit, _ in chosen],
            },
            "name": architecture, "meta": {"architecture": architecture},
            "hovertemplate": "%{y}<br>%{x:.3g}<extra></extra>",
        })  # fmt: skip
    fig = figure(traces, "exponent, with its 95 % interval", "", log=(False, False), height=110 + 26 * len(rows))
    fig.update_yaxes(categoryorder="array", categoryarray=as_text(rows[::-1]), type="category", ticks="")
    return fig


def cheaper(comparison: Comparison) -> Any | None:
    """Plot how many times as much one architecture needs as another for the same loss; None if that is unknown.

    The x axis is this loss. There is a curve for each of compute, hours, parameters and data. Each pair has a colour,
    and each of these quantities has a dash. Every architecture is paired with the first of the ranking. Losses have the
    units of the sentences beside the figure.
    """
    pairs = comparison.facing_first
    looks = style(f"{pair.first} / {pair.second}" for pair in pairs)
    title = UNITS.get(comparison.target, (comparison.target, 1.0))[0].replace("[meV", "[eV")
    traces: list[dict[str, Any]] = []
    for pair in pairs:
        colour = looks[f"{pair.first} / {pair.second}"][0]
        for k, one in enumerate(one for one in facing(pair.multipliers) if one.points):
            traces += _multiplier(one, colour, DASHES[k % len(DASHES)])
    if not traces:
        return None
    ends = [point.loss for pair in pairs for one in pair.multipliers for point in one.points]
    even = {
        "type": "scatter", "mode": "lines", "x": rounded([min(ends), max(ends)]), "y": [1, 1], "hoverinfo": "skip",
        "line": {"color": NEUTRAL, "width": 1}, "showlegend": False,
    }  # fmt: skip
    # A legend of two columns stands above the figure, which keeps its height beside it.
    height = 380 + 22 * (sum("hovertemplate" in trace for trace in traces) // 2)
    return figure([even, *traces], title, "times as much, for the same loss", height=height)


def _multiplier(one: Multiplier, colour: str, dash: str) -> list[dict[str, Any]]:
    """Plotly traces of a multiplier: a line and its band."""
    loss, value, low, high = np.array([[p.loss, p.value, p.low, p.high] for p in one.points]).T
    shown = (low > 0) & np.isfinite(high)
    loss, value, low, high = (column[shown] for column in (loss, value, low, high))
    if len(loss) == 0:
        return []
    name = f"{one.what} of {one.first} / {one.second}" + (f" at {BEST}" if one.basis == BEST else "")
    shared: dict[str, Any] = {"type": "scatter", "mode": "lines", "legendgroup": name, "name": name}
    return [
        {
            **shared, "x": rounded([*loss, *loss[::-1]]), "y": rounded([*low, *high[::-1]]), "fill": "toself",
            "fillcolor": faint(colour, 0.1), "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip",
        },
        {
            **shared, "x": rounded(loss), "y": rounded(value), "line": {"color": colour, "width": 1.8, "dash": dash},
            "hovertemplate": "%{fullData.name}<br>%{y:.3g} × at %{x:.4g}<extra></extra>",
        },
    ]  # fmt: skip


def offsets(fit: Fit) -> Any:
    """Plot the loss of each group relative to the law of all groups, with its interval; each group has a row."""
    looks = style(sorted(one.group for one in fit.groups))
    traces = []
    for one in fit.groups:
        colour, symbol, _ = looks[one.group]
        traces.append({
            "type": "scatter", "mode": "markers", "x": rounded([one.ratio]), "y": [one.group],
            "error_x": {
                "type": "data", "array": rounded([one.high - one.ratio]), "arrayminus": rounded([one.ratio - one.low]),
                "color": colour, "thickness": 1.6, "width": 4,
            },
            "marker": {"color": colour, "size": 9, "symbol": symbol if one.word else f"{symbol}-open"},
            "name": one.group, "showlegend": False, "meta": {"architecture": one.group},
            "hovertemplate": "%{y}<br>%{x:.3g}<extra></extra>",
        })  # fmt: skip
    title = "loss / loss of the mean architecture at the same size"
    fig = figure(traces, title, "", log=(True, False), height=110 + 26 * len(fit.groups))
    fig.add_vline(x=1, line={"color": NEUTRAL, "width": 1})
    rows = as_text([one.group for one in fit.groups][::-1])
    fig.update_yaxes(categoryorder="array", categoryarray=rows, type="category")
    return fig


def _row(fit: Fit, name: str) -> str:
    return f"{symbol(name)} · {fit.architecture} · {fit.name}"


def _runs(
    part: Table,
    name: str,
    axis: str,
    look: tuple[str, str, str],
    fits: Sequence[Fit],
    index: Mapping[str, int],
    names: Sequence[str],
    factor: float,
) -> list[dict[str, Any]]:
    """Plotly traces of the runs of one architecture; markers are filled for runs used in a law, and open for others."""
    if len(part) == 0:
        return []
    colour, symbol, _ = look
    used = {run for fit in fits for run in fit.table.words["run"].tolist()}
    inside = np.array([run in used for run in part.words["run"]])
    traces = []
    for mask, is_open in ((inside, False), (~inside, True)):
        if not mask.any():
            continue
        rows = part.take(mask)
        traces.append({
            "type": "scatter", "mode": "markers", "x": rounded(rows[axis]), "y": rounded(rows["loss"] * factor),
            "name": f"{name}, not in the law" if is_open and fits else name, "legendgroup": name,
            "opacity": 0.75 if is_open and fits else 1.0, "showlegend": not is_open or not inside.any(),
            "marker": {
                "color": colour, "size": 6 if is_open and fits else 8, "symbol": f"{symbol}-open" if is_open else symbol
            },
            **_hover(rows, index, names, factor, None if is_open or not fits else fits[0]), "meta": _meta(rows, index),
        })  # fmt: skip
    return traces


def _law(fit: Fit, axis: str, look: tuple[str, str, str], factor: float) -> list[dict[str, Any]]:
    """Plotly traces of a law: a line and its band. The line is dotted, without a band, if no law is claimed.

    A local slope ends with its points.
    """
    colour, _, dash = look
    is_slope = fit.verdict == LOCAL_SLOPE
    grid = np.geomspace(*(fit.range[axis] if is_slope else _wider(*fit.range[axis])), 80)
    centre, low, high = (v * factor for v in fit.predict(grid))
    label = f"{fit.architecture}: {fit.verdict}" + (f" at {fit.fixed}" if fit.fixed else "")
    shared: dict[str, Any] = {
        "type": "scatter", "mode": "lines", "hoverinfo": "skip", "legendgroup": fit.architecture,
        "meta": {"architecture": fit.architecture}, "showlegend": False,
    }  # fmt: skip
    line = {
        **shared, "x": rounded(grid), "y": rounded(centre), "name": label,
        "line": {"color": colour, "width": 1.8, "dash": "longdash" if is_slope else dash if fit.is_law else "dot"},
        "opacity": 1.0 if fit.is_law or is_slope else 0.7,
    }  # fmt: skip
    if not (fit.is_law or is_slope) or not np.isfinite(low).all() or not np.isfinite(high).all():
        return [line]
    band = {
        **shared, "x": rounded([*grid, *grid[::-1]]), "y": rounded([*low, *high[::-1]]), "fill": "toself",
        "fillcolor": faint(colour), "line": {"width": 0}, "name": f"{label}, 95 %",
    }  # fmt: skip
    return [band, line]


def _paths(table: Table, looks: Mapping[str, tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Plotly traces of the smoothed training curves behind a compute frontier: thin lines, a trace per architecture."""
    traces = []
    for name in table.architectures:
        part = table.of_architecture(name)
        if not part.has("c"):
            continue
        x: list[float | None] = []
        y: list[float | None] = []
        found = curves(part)
        step = max(1, sum(len(curve.c) for curve in found) // 8000)
        for curve in found:
            kept = slice(None, None, step)
            x += [*rounded(np.exp(curve.c[kept])), None]
            y += [*rounded(np.exp(curve.loss[kept])), None]
        traces.append({
            "type": "scatter", "mode": "lines", "x": x, "y": y, "name": f"{name}, while training", "legendgroup": name,
            "line": {"color": looks[name][0], "width": 0.7}, "opacity": 0.55, "hoverinfo": "skip",
            "meta": {"architecture": name}, "showlegend": False,
        })  # fmt: skip
    return traces


def _baselines(table: Table, target: str, ends: Table, axis: str, factor: float) -> list[dict[str, Any]]:
    """Plotly traces of baselines: grey lines with the name at the end. Lines that are close share one label."""
    if len(ends) == 0:
        return []
    low, high = _wider(float(np.min(ends[axis])), float(np.max(ends[axis])))
    ranked = sorted(bars(table, target).items(), key=lambda item: (item[1], item[0]))
    shown = np.array([*ends["loss"], *(value for _, value in ranked)])
    labels = _labels(ranked, float(shown.max() / shown.min()) ** LINE)
    return [
        {
            "type": "scatter", "mode": "lines+text", "x": rounded([low, high]), "y": rounded([value * factor] * 2),
            "text": ["", labels.get(name, "")], "textposition": "top left", "textfont": {"size": 10, "color": NEUTRAL},
            "line": {"color": NEUTRAL, "width": 1, "dash": "dash"}, "showlegend": False, "name": f"baseline {name}",
            "hovertemplate": "%{fullData.name}: %{y:.4g}<extra></extra>", "meta": {"baseline": name},
        }
        for name, value in ranked
    ]  # fmt: skip


def _labels(ranked: Sequence[tuple[str, float]], apart: float = 1.08) -> dict[str, str]:
    """Labels of the lines of baselines, by the name of the baseline that has the label.

    Lines that are less than a factor of `apart` above the line below them share its label, which is drawn at the
    highest of these lines.
    """
    groups: list[list[tuple[str, float]]] = []
    for name, value in ranked:
        if groups and value < apart * groups[-1][-1][1]:
            groups[-1].append((name, value))
        else:
            groups.append([(name, value)])
    return {group[-1][0]: ", ".join(name for name, _ in group) for group in groups}


def _hover(
    rows: Table, index: Mapping[str, int], names: Sequence[str], factor: float = 1.0, fit: Fit | None = None
) -> dict[str, Any]:
    """Texts of runs: name, N, D, loss, seed, and the prediction of the law `fit` for the run."""
    texts = []
    told = [""] * len(rows) if fit is None else _predictions(rows, fit, factor)
    for row, k in enumerate(map(index.get, rows.words["run"].tolist())):
        sizes = ", ".join(f"{axis.upper()} = {size(rows[axis][row])}" for axis in ("n", "d") if rows.has(axis))
        loss, seed = rows["loss"][row] * factor, rows.words["seed"][row] or "-"
        name = Markup("{}<br>").format(names[k]) if k is not None else Markup("")
        ran = f", seed {seed}" if k is not None else ""
        texts.append(Markup("{}{}<br>loss {:.4g}{}{}").format(name, sizes, loss, ran, told[row]))
    return {"text": texts, "hovertemplate": "%{text}<extra></extra>"}


def _predictions(rows: Table, fit: Fit, factor: float) -> list[Markup]:
    """Text of the prediction for each run, by a law or by a line that is no law."""
    at = {axis: rows[axis] for axis in fit.axes} if len(fit.axes) > 1 else rows[fit.axes[0]]
    said = fit.predict(at)[0]
    what = "the law" if fit.is_law else "the slope" if fit.verdict == LOCAL_SLOPE else "the dotted line (no law)"
    return [
        Markup("<br>{} says {:.4g}, the run is {:+.2g} % off").format(what, value * factor, 100 * (loss / value - 1))
        for value, loss in zip(said, rows["loss"])
    ]


def _meta(rows: Table, index: Mapping[str, int]) -> dict[str, Any]:
    return {"runs": [index.get(run, -1) for run in rows.words["run"].tolist()]}


def _wider(low: float, high: float, factor: float = BEYOND) -> tuple[float, float]:
    return low / factor, high * factor
