"""Contents of the tables in a report; the template `assets/page.html.jinja` renders them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from matscale.core.report.analysis import Analysis
from matscale.core.report.records import RunRecord
from matscale.core.report.words import chip, exponents, reach, remarks
from matscale.core.scaling.tables.table import Excluded
from matscale.core.scaling.text import number, percent, size

RUN_COLUMNS = (
    "run", "status", "architecture", "N", "D", "seed", "epochs", "FLOPs", "hours", "loss", "energy meV/atom",
    "forces meV/Å", "stress meV/Å³",
)  # fmt: skip
WORDS = frozenset(
    {
        "run",
        "held out",
        "95 % interval",
        "FLOPs counted by",
        "precision",
        "status",
        "architecture",
        "law",
        "verdict",
        "exponents",
        "range",
        "reasons and notes",
        "device",
        "what",
        "value",
    }
)
"""Headings of columns that contain words; other columns contain numbers and are right-aligned."""


@dataclass(frozen=True)
class HtmlTable:
    """Table for the HTML template. A cell is text, or `Markup` if it contains HTML elements."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[Sequence[str], ...]


def side(heading: str) -> str:
    """HTML class of a column: `num` for right-aligned numbers, empty for words."""
    return "" if heading in WORDS else "num"


def verdicts(analysis: Analysis) -> HtmlTable:
    """Table with one law per row: verdict, exponents, range, reasons and notes."""
    rows = [
        [
            fit.architecture,
            f"{fit.name}{f' at {fit.fixed}' if fit.fixed else ''}",
            chip(fit.verdict),
            exponents(fit),
            reach(fit),
            remarks(fit),
        ]
        for fit in (*analysis.fits, *filter(None, [analysis.mixed]))
    ]
    headings = ("architecture", "law", "verdict", "exponents", "range", "reasons and notes")
    return HtmlTable("Laws of the validation loss", headings, tuple(rows))


def held_out(analysis: Analysis) -> HtmlTable:
    """Table of held-out sizes: the loss that the smaller sizes predict, and the measured loss."""
    rows = []
    for fit in analysis.fits:
        for held in fit.held_out[-2:]:
            at = ", ".join(f"{axis.upper()} = {size(value)}" for axis, value in held.at.items())
            rows.append([
                fit.architecture, fit.name, at, number(held.predicted, held.low, held.high),
                f"{held.found:.4g}", percent(held.error), "inside" if held.covered else Markup("<b>outside</b>"),
            ])  # fmt: skip
    headings = ("architecture", "law", "held out", "predicted", "found", "error", "95 % interval")
    return HtmlTable("The largest sizes, predicted from the smaller ones", headings, tuple(rows))


def run_cells(run: RunRecord) -> list[str]:
    """Cells of a run in the columns `RUN_COLUMNS`, without the first two, name and status."""
    last, hours = run.last, run.number("wall_s")
    return [
        run.architecture,
        _whole(run.n),
        _whole(run.d),
        str(run.info.get("seed", "-")),
        _digits(run.info.get("epochs")),
        _digits(run.info.get("flops")),
        _digits(hours / 3600.0 if hours else None),
        _digits(last.get("loss"), 1.0, 4),
        *(_digits(last.get(key), 1e3, 4) for key in ("energy_mae", "forces_mae", "stress_mae")),
    ]


def more(run: RunRecord) -> str:
    """Facts of a run that the table does not show, as JSON: folder, learning rate, batch and configuration."""
    architecture = run.config.get("architecture") or {}
    config = architecture.get("config") or {}
    batch = (run.info.get("global_batch") or {}).get("structures")
    facts = {
        "folder": str(run.path),
        "learning rate": _digits((run.config.get("optimizer") or {}).get("lr")),
        "structures in a batch": _digits(batch),
        "configuration": ", ".join(f"{key} = {value}" for key, value in config.items())[:400],
    }
    return json.dumps([[name, fact] for name, fact in facts.items() if fact not in ("", "-")], ensure_ascii=False)


def csv_link(runs: Sequence[RunRecord]) -> str:
    """Address that holds the table of runs as CSV, in the units of the table."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow((*RUN_COLUMNS, "folder"))
    for run in runs:
        cells = [cell.replace(",", "") if cell != "-" else "" for cell in run_cells(run)[1:]]
        writer.writerow([run.name, run.status, run.architecture, *cells, run.path])
    return "data:text/csv;charset=utf-8," + quote(text.getvalue())


def hardware(runs: Sequence[RunRecord]) -> HtmlTable:
    """Table of the hardware on which the runs were trained: devices, number of runs, device-hours and FLOPs."""
    kinds: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        if run.info:
            words = (run.info.get("device"), run.info.get("precision"), run.info.get("flops_counted_by"))
            kinds.setdefault((*map(str, words), str(run.info.get("world_size", 1))), []).append(run)
    rows = []
    for (device, precision, by, world), found in sorted(kinds.items()):
        flops = sum(run.number("flops") or 0.0 for run in found)
        wall = sum(run.number("wall_s") or 0.0 for run in found)
        hours = wall / 3600 * int(world)
        rows.append([
            device, world, precision, f"{len(found):,}", f"{flops:.3g}", f"{hours:.3g}",
            f"{flops / wall:.3g}" if wall else "-", by,
        ])  # fmt: skip
    headings = ("device", "processes", "precision", "runs", "FLOPs", "device-hours", "FLOPs/s", "FLOPs counted by")
    return HtmlTable("Hardware and FLOPs of training", headings, tuple(rows))


@dataclass(frozen=True)
class LeftOut:
    """Runs that one law, or every law, left out for the same reason; the first fifty are named."""

    law: str
    reason: str
    n_runs: int
    shown: tuple[str, ...]


def left_out(analysis: Analysis) -> list[LeftOut]:
    """Runs that were left out, by law and reason. The runs that every law leaves out come first."""
    seen = set(analysis.excluded)
    groups: list[tuple[str, Sequence[Excluded]]] = [("every law", analysis.excluded)]
    groups += [(f"{fit.architecture}, {fit.name}", [e for e in fit.excluded if e not in seen]) for fit in analysis.fits]
    return [one for law, excluded in groups for one in _by_reason(excluded, law)]


def _by_reason(excluded: Sequence[Excluded], law: str) -> list[LeftOut]:
    by_reason: dict[str, list[str]] = {}
    for one in excluded:
        by_reason.setdefault(one.reason, []).append(one.row)
    most_first = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    return [LeftOut(law, reason, len(rows), tuple(sorted(rows)[:50])) for reason, rows in most_first]


def provenance(runs: Sequence[RunRecord], command: str, version: str) -> dict[str, str]:
    """Origin of the page: the facts that are needed to make the runs and this page again."""
    infos = [run.info for run in runs if run.info]

    def values(pick: Any) -> str:
        found = {
            v if isinstance(v, str) else json.dumps(v, sort_keys=True) for i in infos if (v := pick(i)) is not None
        }
        return "; ".join(sorted(found))

    def version_of(name: str) -> str:
        return values(lambda info: (info.get("versions") or {}).get(name))

    def data(key: str) -> str:
        return values(lambda info: (info.get("dataset") or {}).get(key))

    facts = {
        "made by": f"matscale {version}",
        "command": command,
        "a run again": "matscale train --config RUN/config.toml",
        "dataset": data("path"),
        "dataset hash": data("hash"),
        "structures": data("structures"),
        "labels by": data("labels_by"),
        "runs by matscale": version_of("matscale"),
        "torch": version_of("torch"),
        "python": version_of("python"),
        "architectures from": values(
            lambda i: "{name}: {distribution} {version}".format(**i["architecture"]) if "architecture" in i else None
        ),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _digits(value: Any, factor: float = 1.0, digits: int = 3) -> str:
    return f"{value * factor:.{digits}g}" if isinstance(value, int | float) and not isinstance(value, bool) else "-"
