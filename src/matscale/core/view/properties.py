"""HTML page of measured properties: a table, and a figure for each property of each crystal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from matscale.core.files import finite
from matscale.core.properties.measure import Results
from matscale.core.report.layout import NEUTRAL, figure, rounded, style
from matscale.version import __version__


class Quantity(NamedTuple):
    """Column of the table: property, field of its result, heading with the unit, format."""

    name: str
    key: str
    heading: str
    form: str


QUANTITIES = (
    Quantity("eos", "lattice_constant", "a [Å]", "{:.3f}"),
    Quantity("eos", "bulk_modulus", "B [GPa]", "{:.1f}"),
    Quantity("elastic", "c11", "C11 [GPa]", "{:.1f}"),
    Quantity("elastic", "c12", "C12 [GPa]", "{:.1f}"),
    Quantity("elastic", "c44", "C44 [GPa]", "{:.1f}"),
    Quantity("phonons", "highest", "highest phonon [THz]", "{:.2f}"),
    Quantity("phonons", "lowest", "lowest [THz]", "{:.2f}"),
    Quantity("nve", "drift", "NVE drift [meV/atom/ps]", "{:.2g}"),
    Quantity("nve", "fluctuation", "fluctuation [meV/atom]", "{:.2g}"),
    Quantity("path", "largest_jump", "largest jump of a force [eV/Å]", "{:.2g}"),
    Quantity("path", "discontinuity", "jump that remains [eV/Å]", "{:.1g}"),
    Quantity("diatomic", "bond_length", "bond [Å]", "{:.2f}"),
    Quantity("diatomic", "depth", "depth [eV]", "{:.2f}"),
)
"""Columns of the table, in order."""


class Shown(NamedTuple):
    """Curves of one property for the page: title, titles of the axes, and the curve (x, y) of a result."""

    title: str
    x: str
    y: str
    curve: Any


SHOWN = {
    "eos": Shown(
        "equation of state",
        "volume [Å³/atom]",
        "energy above the minimum [meV/atom]",
        lambda one: (one.volumes, 1e3 * (one.energies - one.energy)),
    ),
    "phonons": Shown(
        "phonons",
        "wave vector",
        "frequency [THz]",
        lambda one: (
            np.tile([*one.distances, np.nan], one.frequencies.shape[1]),
            np.pad(one.frequencies, ((0, 1), (0, 0)), constant_values=np.nan).T.reshape(-1),
        ),
    ),
    "nve": Shown("energy at constant energy", "time [ps]", "change [meV/atom]", lambda one: (one.times, one.energies)),
    "path": Shown(
        "force along a path",
        "path of one atom [Å]",
        "length of the force on it [eV/Å]",
        lambda one: (one.places, np.linalg.norm(one.forces, axis=1)),
    ),
    "diatomic": Shown(
        "two atoms", "distance [Å]", "energy [eV]", lambda one: (one.distances, np.minimum(one.energies, 10.0))
    ),
}
"""Figures by property."""


def table(all_results: Mapping[str, Results]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table of values: a row for each crystal or pair, and model; a dash without a value."""
    has = {
        name for results in all_results.values() for each in results.values() for name in (*each.found, *each.failed)
    }
    quantities = [q for q in QUANTITIES if q.name in has]
    subjects = dict.fromkeys(subject for results in all_results.values() for subject in results)
    rows = [
        [subject, model, *(_cell(results[subject].found.get(q.name), q) for q in quantities)]
        for subject in subjects
        for model, results in all_results.items()
        if subject in results
    ]
    return ["crystal", "model", *(q.heading for q in quantities)], rows


def _cell(one: Any, quantity: Quantity) -> str:
    return "-" if one is None else quantity.form.format(getattr(one, quantity.key))


def failures(all_results: Mapping[str, Results]) -> list[str]:
    """Sentences on properties that could not be measured."""
    return [
        f"{model}, {subject}, {', '.join(name for name, other in each.failed.items() if other == reason)}: {reason}"
        for model, results in all_results.items()
        for subject, each in results.items()
        for reason in dict.fromkeys(each.failed.values())
    ]


def page(all_results: Mapping[str, Results], reference: str | None, notes: Sequence[str], command: str = "") -> str:
    """Render measured properties as an HTML page that needs no network.

    `all_results` are by model, the reference among them under the name `reference`. `command` made the page.
    """
    from jinja2 import Environment, StrictUndefined  # start-up: jinja2
    from plotly.offline import get_plotlyjs

    headings, rows = table(all_results)
    figures = _figures(all_results, reference)
    data = {title: made.to_plotly_json() for title, made in figures.items()}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(_asset("properties.html.jinja")).render(
        models=[name for name in all_results if name != reference],
        reference=reference,
        headings=headings,
        rows=rows,
        figures=list(figures),
        notes=notes,
        facts={"made by": f"matscale {__version__}", "command": command},
        data=Markup(json.dumps(finite(data), separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")),
        plotly=Markup(get_plotlyjs()),
        script=Markup(_asset("properties.js")),
        style=Markup(files("matscale.core.report").joinpath("assets", "report.css").read_text(encoding="utf-8")),
    )


def _figures(all_results: Mapping[str, Results], reference: str | None) -> dict[str, Any]:
    looks = style(name for name in all_results if name != reference)
    subjects = dict.fromkeys(subject for results in all_results.values() for subject in results)
    found: dict[str, Any] = {}
    for name, shown in SHOWN.items():
        for subject in subjects:
            traces: list[Any] = []
            ticks: dict[str, Any] = {}
            for model, results in all_results.items():
                one = results[subject].found.get(name) if subject in results else None
                if one is None:
                    continue
                colour, _, dash = (NEUTRAL, "", "dot") if model == reference else looks[model]
                x, y = shown.curve(one)
                line = {"color": colour, "dash": dash, "width": 1.6}
                traces.append({"type": "scatter", "mode": "lines", "name": model, "x": rounded(x), "y": rounded(y),
                               "line": line})  # fmt: skip
                if name == "phonons" and not ticks:
                    places = dict[float, str]()
                    for place, label in one.labels:
                        places[place] = f"{places[place]}|{label}" if place in places else label
                    ticks = {"tickvals": rounded(places), "ticktext": [*places.values()]}
            if traces:
                made = figure(traces, shown.x, shown.y, log=(False, False), showlegend=True)
                made.update_xaxes(**ticks)
                found[f"{subject}: {shown.title}"] = made
    return found


def _asset(name: str) -> str:
    return files("matscale.core.view").joinpath("assets", name).read_text(encoding="utf-8")
