"""The page: one HTML file with everything in it. The same report gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from matscale.core.files import finite
from matscale.core.report import tables
from matscale.core.report.build import SECTIONS, Panel, Report, choices
from matscale.core.report.runs_figures import data_levels
from matscale.core.report.words import refused
from matscale.core.scaling.text import counted
from matscale.version import __version__

TITLES = {
    "laws": "Laws",
    "curves": "Training",
    "terms": "Errors by term",
    "exponents": "Exponents",
    "residuals": "Residuals",
    "cost": "Cost and hardware",
}


def page(report: Report, version: str = "") -> str:
    """HTML of `report`. `version`: what a server tells apart changes by; empty for a page that never asks."""
    from plotly.offline import get_plotlyjs

    runs = report.records.runs
    levels, labels = data_levels(runs)
    data = {
        "figures": {panel.name: panel.figure.to_plotly_json() for panel in report.panels},
        "architecture": [run.architecture for run in runs],
        "data": levels,
    }
    name = ", ".join(report.sources)
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">',
        f"<title>{escape(name)}: scaling report</title>\n<style>\n{_asset('report.css')}</style>\n</head>",
        f'<body data-version="{escape(version)}">',
        _header(report, name),
        _toolbar(sorted({run.architecture for run in runs if run.info}), labels),
        '<main id="main">',
        _verdicts(report),
        *(_section(report, key) for key in SECTIONS),
        f'<section id="runs"><h2>Runs</h2>{tables.runs_table(runs, levels)}</section>',
        _ending(report),
        "</main>",
        '<aside id="chosen" aria-live="polite" hidden></aside>',
        f'<script type="application/json" id="report-data">{_json(data)}</script>',
        f"<script>{get_plotlyjs()}</script>\n<script>\n{_asset('report.js')}</script>",
        "</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _asset(name: str) -> str:
    return files("matscale.core.report").joinpath("assets", name).read_text(encoding="utf-8")


def _json(values: Any) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.dumps(finite(values), sort_keys=True, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _header(report: Report, name: str) -> str:
    runs = report.records.runs
    states: dict[str, int] = {}
    for run in runs:
        states[run.status] = states.get(run.status, 0) + 1
    told = ", ".join(f"{count:,} {status}" for status, count in sorted(states.items(), key=lambda s: (-s[1], s[0])))
    flops = sum(run.number("flops") or 0.0 for run in runs)
    hours = sum((run.number("wall_s") or 0.0) * int(run.info.get("world_size", 1)) for run in runs) / 3600
    architectures = len({run.architecture for run in runs if run.info})
    links = [
        ("verdicts", "Verdicts"),
        *((f"section-{k}", TITLES[k]) for k in SECTIONS if _has(report, k)),
        ("runs", "Runs"),
    ]
    nav = "".join(f'<a href="#{key}">{title}</a>' for key, title in [*links, ("provenance", "Provenance")])
    return (
        '<a class="skip" href="#main">Skip to the results</a>\n<header>'
        f"<h1>{escape(name)}</h1><p>{counted(len(runs), 'run')} ({told}) of {counted(architectures, 'architecture')}; "
        f"{flops:.3g} training FLOPs in {hours:.3g} device-hours.</p>"
        f'<nav aria-label="Sections">{nav}</nav></header>'
    )


def _toolbar(architectures: Sequence[str], labels: Sequence[str]) -> str:
    """What the figures and the table of runs show; hidden where there is nothing to choose."""
    groups = []
    for kind, title, values in (
        ("architecture", "Architectures", [(name, name) for name in architectures]),
        ("data", "Training structures", [(str(k), label) for k, label in enumerate(labels)]),
    ):
        if len(values) > 1:
            boxes = "".join(
                f'<label><input type="checkbox" checked data-kind="{kind}" value="{escape(value)}"> '
                f"{escape(label)}</label>"
                for value, label in values
            )
            groups.append(f"<fieldset><legend>{title}</legend>{boxes}</fieldset>")
    if not groups:
        return ""
    return f'<form class="toolbar" aria-label="Selection">{"".join(groups)}<button type="reset">All</button></form>'


def _verdicts(report: Report) -> str:
    analysis = report.analysis
    body = ""
    if analysis.fits:
        body += tables.verdicts(analysis)
    if analysis.refusal:
        body += f'<p class="notice">No laws: {escape(analysis.refusal)}</p>'
    said = [refused(one) for one in analysis.refused if one.target == "loss"]
    body += "".join(f"<p>{sentence}</p>" for sentence in said)
    body += "".join(f'<p class="notice">{escape(note[0].upper() + note[1:])}.</p>' for note in analysis.notes)
    return f'<section id="verdicts"><h2>Verdicts</h2>{body}</section>'


def _has(report: Report, section: str) -> bool:
    return any(panel.section == section for panel in report.panels)


def _section(report: Report, key: str) -> str:
    panels = [panel for panel in report.panels if panel.section == key]
    if not panels:
        return ""
    body = "".join(_figure(panel) for panel in panels)
    after = {"residuals": tables.held_out(report.analysis), "cost": tables.hardware(report.records.runs)}.get(key, "")
    return f'<section id="section-{key}"><h2>{TITLES[key]}</h2><div class="grid">{body}</div>{after}</section>'


def _figure(panel: Panel) -> str:
    said = "".join(f"<p>{sentence}</p>" for sentence in panel.sentences)
    size = "small" if panel.is_small else "wide"
    height = panel.figure.layout.height
    style = f' style="height:{int(height)}px"' if height else ""
    return (
        f'<figure id="{panel.name}" class="{size}"><h3>{escape(panel.title)}</h3>{_controls(panel)}'
        f'<div class="plot" data-figure="{panel.name}" role="img" aria-label="{escape(panel.title)}"{style}></div>'
        f"<figcaption>{said}</figcaption></figure>"
    )


def _controls(panel: Panel) -> str:
    layout = panel.figure.layout
    chosen = choices(panel)
    parts = []
    for axis in ("x", "y"):
        if axis in chosen:
            parts.append(_select(panel.name, axis, chosen[axis]))
        if layout[f"{axis}axis"].type in ("log", "linear") and panel.section not in ("exponents",):
            pressed = "true" if layout[f"{axis}axis"].type == "log" else "false"
            if not (axis == "y" and panel.section == "residuals"):  # residuals have both signs
                parts.append(
                    f'<button type="button" data-scale="{axis}" data-of="{panel.name}" aria-pressed="{pressed}">'
                    f"log {axis}</button>"
                )
    if "by" in chosen:
        parts.append(_select(panel.name, "by", chosen["by"]))
    if not parts:
        return ""
    return f'<div class="controls" role="group" aria-label="Axes of {escape(panel.title)}">{"".join(parts)}</div>'


def _select(name: str, axis: str, options: dict[str, str]) -> str:
    items = "".join(f'<option value="{key}">{escape(label)}</option>' for key, label in options.items())
    said = {"x": "against", "y": "show", "by": "group by"}[axis]
    return f'<label>{said} <select data-choice="{axis}" data-of="{name}">{items}</select></label>'


def _ending(report: Report) -> str:
    listed = tables.left_out(report.analysis)
    left = f'<section id="left-out"><h2>Left out of the laws</h2>{listed}</section>' if listed else ""
    command = "matscale report " + " ".join(report.sources)
    facts = tables.provenance(report.records.runs, command, __version__)
    return f'{left}<section id="provenance"><h2>Provenance</h2>{facts}</section>'
