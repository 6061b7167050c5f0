"""HTML page of a report: one file that contains everything. The same report gives the same bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from markupsafe import Markup

from matscale.core.report import tables
from matscale.core.report.answer import answer, definitions, headline
from matscale.core.report.build import SECTIONS, Panel, Report, choices
from matscale.core.report.html import asset, rendered, script_data
from matscale.core.report.records import RunRecord
from matscale.core.report.runs_figures import data_levels
from matscale.core.report.still import still
from matscale.core.report.words import refused
from matscale.core.scaling.text import counted
from matscale.version import __version__

TITLES = {
    "answer": "Answer",
    "laws": "Laws",
    "curves": "Training",
    "terms": "Errors by term",
    "exponents": "Exponents",
    "residuals": "Residuals",
    "cost": "Cost and hardware",
}


def page(report: Report, version: str = "") -> str:
    """Render a report as HTML.

    A page that a server sends has a `version`, by which it notices that it is outdated; a page in a file has none.
    """
    runs, analysis = report.records.runs, report.analysis
    levels, labels = data_levels(runs)
    data = {
        "figures": {panel.name: panel.figure.to_plotly_json() for panel in report.panels},
        "architecture": [run.architecture for run in runs],
        "data": levels,
    }
    return rendered(
        "report",
        "page.html.jinja",
        name=", ".join(report.sources),
        version=version,
        summary=_summary(runs),
        headline=headline(analysis),
        answer=answer(analysis),
        definitions=definitions(),
        still=still,
        csv=tables.csv_link(runs),
        more=tables.more,
        titles=TITLES,
        sections=_sections(report.panels),
        selections=_selections(sorted({run.architecture for run in runs if run.info}), labels),
        verdicts=tables.verdicts(analysis),
        refusal=analysis.refusal,
        refused=[refused(one) for one in analysis.refused if one.target == "loss"],
        notes=analysis.notes,
        below={"residuals": tables.held_out(analysis), "cost": tables.hardware(runs)},
        run_columns=tables.RUN_COLUMNS,
        runs=runs,
        levels=levels,
        left_out=tables.left_out(analysis),
        provenance=tables.provenance(runs, "matscale report " + " ".join(report.sources), __version__),
        data=script_data(data, sort_keys=True),
        scripts=[Markup(script) for script in scripts()],
        asset=lambda name: Markup(asset(name, "report")),
        side=tables.side,
        run_cells=tables.run_cells,
        choices=choices,
        log_buttons=_log_buttons,
    )


def scripts() -> tuple[str, ...]:
    """Scripts that every page has. They do not depend on the runs, so that a server can permit these scripts only."""
    from plotly.offline import get_plotlyjs  # start-up: plotly

    return get_plotlyjs(), "\n" + asset("report.js", "report")


def _summary(runs: Sequence[RunRecord]) -> str:
    states = Counter(run.status for run in runs)
    told = ", ".join(f"{count:,} {status}" for status, count in sorted(states.items(), key=lambda s: (-s[1], s[0])))
    flops = sum(run.number("flops") or 0.0 for run in runs)
    hours = sum((run.number("wall_s") or 0.0) * int(run.info.get("world_size", 1)) for run in runs) / 3600
    architectures = len({run.architecture for run in runs if run.info})
    return (
        f"{counted(len(runs), 'run')} ({told}) of {counted(architectures, 'architecture')}; "
        f"{flops:.3g} training FLOPs in {hours:.3g} device-hours."
    )


def _sections(panels: Sequence[Panel]) -> dict[str, list[Panel]]:
    """Figures of each section, in the order of the page; sections without figures are left out."""
    found = {key: [panel for panel in panels if panel.section == key] for key in SECTIONS}
    return {key: shown for key, shown in found.items() if shown}


def _selections(architectures: Sequence[str], labels: Sequence[str]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Filters of runs that the page offers: (kind, title, [(value, label)]) for each kind with more than one value."""
    groups = [
        ("architecture", "Architectures", [(name, name) for name in architectures]),
        ("data", "Training structures", [(str(k), label) for k, label in enumerate(labels)]),
    ]
    return [group for group in groups if len(group[2]) > 1]


def _log_buttons(panel: Panel) -> dict[str, bool]:
    """Axes of a figure whose scale can be switched: {axis: whether it is logarithmic at first}."""
    kinds = {axis: panel.figure.layout[f"{axis}axis"].type for axis in ("x", "y")}
    if panel.section == "exponents":
        return {}
    if panel.section == "residuals":  # their values have both signs
        del kinds["y"]
    return {axis: kind == "log" for axis, kind in kinds.items() if kind in ("log", "linear")}
