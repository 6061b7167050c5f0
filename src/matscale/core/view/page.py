"""HTML page of a view: one file, which contains the data and the scripts that draw them (plotly and 3Dmol.js)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from markupsafe import Markup

from matscale.core.data.structure import full_to_voigt
from matscale.core.inference.columns import columns
from matscale.core.inference.side_by_side import Model
from matscale.core.inference.survey import Grid
from matscale.core.report.html import asset, rendered, script_data
from matscale.core.report.layout import SERIES
from matscale.core.view.gather import Prediction, Shown, View
from matscale.version import __version__

MAX_GROUPS = 400
"""Largest number of groups in a figure; the groups with the most structures are shown."""
METRICS = columns(
    {
        "loss": "loss",
        "energy MAE [meV/atom]": "energy_mae",
        "energy RMSE": "energy_rmse",
        "forces MAE [meV/Å]": "forces_mae",
        "forces RMSE": "forces_rmse",
        "cosine": "forces_cos",
        "stress MAE [meV/Å³]": "stress_mae",
        "isotropic": "stress_isotropic_mae",
        "anisotropic": "stress_anisotropic_mae",
    }
)
"""Columns of the table of errors, by their headings."""
GROUPED = {"forces_mae": 1e3, "energy_mae": 1e3, "stress_mae": 1e3}
"""Metrics of the figures by group, with the factor to their unit."""


def page(view: View, command: str = "") -> str:
    """Render a view as HTML. `command` is the command that made it."""
    found = view.evaluation
    return rendered(
        "view",
        "view.html.jinja",
        names=[model.name for model in found.runs],
        steps=[model.step for model in found.runs],
        sentences=sentences(view),
        columns=list(METRICS),
        rows=[
            (model.name, model.run is not None, [one.cell(model.metrics) for one in METRICS.values()])
            for model in found.models
        ],
        shown=view.shown,
        facts={
            "made by": f"matscale {__version__}",
            "command": command,
            "dataset": view.data,
            "dataset hash": found.dataset.hash,
            **{model.name: f"{model.run.path if model.run else ''}, step {model.step}" for model in found.runs},
        },
        notes=[*found.left_out, *view.notes],
        errors=_errors,
        data=script_data(plain(view)),
        scripts=[Markup(script) for script in scripts()],
        style=Markup(asset("report.css", "report") + asset("view.css", "view")),
    )


def scripts() -> tuple[str, ...]:
    """Scripts of every page: plotly, 3Dmol.js, and the page's own."""
    from plotly.offline import get_plotlyjs  # start-up: plotly

    return get_plotlyjs(), asset("3Dmol-min.js", "view"), "\n" + asset("view.js", "view")


def sentences(view: View) -> list[str]:
    """First sentences of the page: data, errors, and number of structures shown."""
    found = view.evaluation
    said = []
    best = min(found.baselines, key=lambda model: model.metrics.get("loss", np.inf), default=None)
    for model in found.runs:
        told = [f"{_value(model, key)} {unit}" for key, unit in UNITS.items() if key in model.metrics]
        beside = ""
        if best is not None and "loss" in model.metrics:
            beside = (
                f"; loss {model.metrics['loss']:.4g}, of the best baseline ({best.name}) {best.metrics['loss']:.4g}"
            )
        said.append(f"{model.name} at step {model.step:,}: {', '.join(told)}{beside}.")
    of = "" if len(found.rows) == len(found.dataset) else f" of {len(found.dataset):,}"
    head = f"Measured on {len(found.rows):,}{of} structures of {view.data}. "
    kinds = [one.why for one in view.shown]
    worst, random = sum("large error" in why for why in kinds), kinds.count("random")
    rest = len(kinds) - worst - random
    others = f", {rest} chosen or followed in training" if rest else ""
    said.append(
        f"{head}This page holds {len(view.shown):,} of them: {worst} with the largest errors, {random} drawn at random"
        f"{others}. Tables, the shading of parity plots and figures by group use all measured structures."
    )
    return said


UNITS = {
    "energy_mae": "meV/atom (energy)",
    "forces_mae": "meV/Å (forces)",
    "stress_mae": "meV/Å³ (stress)",
}


def _value(model: Model, key: str) -> str:
    return f"{1e3 * model.metrics[key]:.3g}"


def _errors(one: Shown, name: str, step: int) -> str:
    """Errors of a run on a structure, in words, for the list of structures."""
    prediction, truth = one.predictions[name].get(step), one.structure
    if prediction is None:
        return "-"
    told = []
    if truth.energy is not None:
        told.append(f"{1e3 * (prediction.energy - truth.energy) / len(truth):+.0f} meV/atom")
    if truth.forces is not None and prediction.forces is not None:
        told.append(f"{1e3 * np.linalg.norm(prediction.forces - truth.forces, axis=1).mean():.0f} meV/Å")
    return ", ".join(told)


def plain(view: View) -> dict[str, Any]:
    """Contents of a view as JSON-ready values, which the script of the page draws."""
    found = view.evaluation
    return {
        "runs": [
            {
                "name": model.name,
                "step": model.step,
                "colour": SERIES[k % len(SERIES)],
                "grids": {name: _grid(grid) for name, grid in model.survey.grids.items()},
                "errors": {key: model.metrics.get(f"{key}_mae") for key in ("energy", "forces", "stress")},
            }
            for k, model in enumerate(found.runs)
        ],
        "groups": [{"name": model.name, "ways": _groups(model)} for model in _grouped(view)],
        "symbols": list(chemical_symbols),
        "structures": [_structure(one, [model.name for model in found.runs]) for one in view.shown],
    }


def _grouped(view: View) -> list[Model]:
    """Models of the figures by group: the runs, and the best of the baselines."""
    best = sorted(view.evaluation.baselines, key=lambda model: model.metrics.get("loss", np.inf))[:1]
    return [*view.evaluation.runs, *best]


def _groups(model: Model) -> dict[str, dict[str, list[float | None]]]:
    """Number of structures, and metrics of `GROUPED`, of the largest groups, for each way of grouping."""
    told = {}
    for way, groups in model.survey.groups().items():
        largest = sorted(groups, key=lambda key: -groups[key]["n_structures"])[:MAX_GROUPS]
        told[way] = {
            key: [
                groups[key]["n_structures"],
                *(_round(factor * groups[key].get(metric, np.nan)) for metric, factor in GROUPED.items()),
            ]
            for key in groups
            if key in largest
        }
    return told


def _grid(grid: Grid) -> dict[str, Any]:
    """Filled cells of a parity plot, as [label, prediction, count]."""
    cells = np.argwhere(grid.counts)
    return {
        "low": grid.low,
        "high": grid.high,
        "bins": len(grid.counts),
        "outside": grid.outside,
        "cells": [[int(i), int(j), int(grid.counts[i, j])] for i, j in cells],
    }


def _structure(one: Shown, names: Iterable[str]) -> dict[str, Any]:
    s = one.structure
    return {
        "row": one.row,
        "why": one.why,
        "formula": s.formula,
        "source": one.source,
        "numbers": s.atomic_numbers.tolist(),
        "positions": _rounded(s.positions),
        "cell": _rounded(s.cell),
        "pbc": s.pbc.tolist(),
        "energy": s.energy,
        "forces": _rounded(s.forces),
        "stress": None if s.stress is None else _rounded(full_to_voigt(s.stress)),
        "predictions": [_predictions(one.predictions.get(name, {})) for name in names],
    }


def _predictions(by_step: Mapping[int, Prediction]) -> list[list[Any]]:
    """Predictions as [step, energy, forces, stress], in the order of the steps."""
    return [[step, p.energy, _rounded(p.forces), _rounded(p.stress)] for step, p in sorted(by_step.items())]


def _rounded(values: Any) -> list[float] | None:
    """Flat list with five digits, which are enough for a figure and take half of the bytes; None stays."""
    return None if values is None else [float(f"{v:.5g}") for v in np.asarray(values, dtype=float).reshape(-1)]


def _round(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None
