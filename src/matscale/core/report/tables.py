"""Tables of the report, as HTML that can be read without a script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from matscale.core.report.analysis import Analysis
from matscale.core.report.records import RunRecord
from matscale.core.report.words import chip, exponents, reach
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
        "device",
        "what",
        "value",
    }
)
"""Headings of columns that hold words; all others are numbers and stand to the right."""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """`rows` hold HTML."""
    heads = "".join(f'<th scope="col"{_side(h)}>{escape(h)}</th>' for h in headings)
    body = "".join(
        "<tr>" + "".join(f"<td{_side(h)}>{cell}</td>" for h, cell in zip(headings, row)) + "</tr>\n" for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table><caption>'
        f"{escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>\n{body}</tbody></table></div>"
    )


def verdicts(analysis: Analysis) -> str:
    """Every law in a row: what is claimed and what not."""
    rows = [
        [
            escape(fit.architecture),
            escape(f"{fit.name}{f' at {fit.fixed}' if fit.fixed else ''}"),
            chip(fit.verdict),
            exponents(fit),
            escape(reach(fit)),
        ]
        for fit in analysis.fits
    ]
    return table(("architecture", "law", "verdict", "exponents", "range"), rows, "Laws of the validation loss")


def held_out(analysis: Analysis) -> str:
    """What the smaller sizes said of the largest."""
    rows = []
    for fit in analysis.fits:
        for held in fit.held_out[-2:]:
            at = ", ".join(f"{axis.upper()} = {size(value)}" for axis, value in held.at.items())
            rows.append([
                escape(fit.architecture), escape(fit.name), at, number(held.predicted, held.low, held.high),
                f"{held.found:.4g}", percent(held.error), "inside" if held.covered else "<b>outside</b>",
            ])  # fmt: skip
    headings = ("architecture", "law", "held out", "predicted", "found", "error", "95 % interval")
    return table(headings, rows, "The largest sizes, predicted from the smaller ones") if rows else ""


def runs_table(runs: Sequence[RunRecord], data: Sequence[int]) -> str:
    """One row per run, which a click on a point leads to; `data`: number of its amount of data, or -1."""
    heads = "".join(
        f'<th scope="col" aria-sort="none"{_side(h)}><button type="button" data-sort="{k}">{escape(h)}</button></th>'
        for k, h in enumerate(RUN_COLUMNS)
    )
    body = "".join(_run_row(k, run, data[k]) for k, run in enumerate(runs))
    return (
        '<div class="scroll tall" tabindex="0" role="region" aria-label="All runs"><table id="runs-table">'
        "<caption>All runs. A name shows its run in the figures.</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>\n{body}</tbody></table></div>"
    )


def _run_row(k: int, run: RunRecord, data: int) -> str:
    last = run.last
    status = f'<span title="{escape(run.reason)}">{escape(run.status)}</span>' if run.reason else escape(run.status)
    hours = run.number("wall_s")
    cells = [
        f'<button type="button" data-run="{k}">{escape(run.name)}</button>',
        status,
        escape(run.architecture),
        _whole(run.n),
        _whole(run.d),
        escape(str(run.info.get("seed", "-"))),
        _digits(run.info.get("epochs")),
        _digits(run.info.get("flops")),
        _digits(hours / 3600.0 if hours else None),
        _digits(last.get("loss"), 1.0, 4),
        *(_digits(last.get(key), 1e3, 4) for key in ("energy_mae", "forces_mae", "stress_mae")),
    ]
    body = "".join(f"<td{_side(h)}>{cell}</td>" for h, cell in zip(RUN_COLUMNS, cells))
    return f'<tr id="run-{k}" data-architecture="{escape(run.architecture)}" data-data="{data}">{body}</tr>\n'


def hardware(runs: Sequence[RunRecord]) -> str:
    """What computed, for how long, and how many FLOPs."""
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
            escape(device), world, escape(precision), f"{len(found):,}", f"{flops:.3g}", f"{hours:.3g}",
            f"{flops / wall:.3g}" if wall else "-", escape(by),
        ])  # fmt: skip
    headings = ("device", "processes", "precision", "runs", "FLOPs", "device-hours", "FLOPs/s", "FLOPs counted by")
    return table(headings, rows, "Hardware and FLOPs of training")


def left_out(analysis: Analysis) -> str:
    """Runs that no law saw, and runs that one law did not see, by reason."""
    seen = set(analysis.excluded)
    parts = [_by_reason(analysis.excluded, "every law")]
    parts += [
        _by_reason([e for e in fit.excluded if e not in seen], f"{fit.architecture}, {fit.name}")
        for fit in analysis.fits
    ]
    return "".join(parts)


def _by_reason(excluded: Sequence[Excluded], law: str) -> str:
    by_reason: dict[str, list[str]] = {}
    for one in excluded:
        by_reason.setdefault(one.reason, []).append(one.row)
    parts = []
    for reason, rows in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        listed = "".join(f"<li>{escape(row)}</li>" for row in sorted(rows)[:50])
        more = f"<li>and {len(rows) - 50:,} more</li>" if len(rows) > 50 else ""
        parts.append(
            f"<details><summary>{escape(law)}: {len(rows):,} × {escape(reason)}</summary>"
            f"<ul>{listed}{more}</ul></details>"
        )
    return "".join(parts)


def facts(rows: Mapping[str, Any]) -> str:
    """Two columns."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in rows.items() if v) + "</dl>"


def provenance(runs: Sequence[RunRecord], command: str, version: str) -> str:
    """From what, by what and how: enough to make the runs and this page again."""
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

    return facts(
        {
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
                lambda i: (
                    "{name}: {distribution} {version}".format(**i["architecture"]) if "architecture" in i else None
                )
            ),
        }
    )


def _side(heading: str) -> str:
    return "" if heading in WORDS else ' class="num"'


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _digits(value: Any, factor: float = 1.0, digits: int = 3) -> str:
    return f"{value * factor:.{digits}g}" if isinstance(value, int | float) and not isinstance(value, bool) else "-"
