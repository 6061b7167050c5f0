"""`matscale data stats`: distributions of the numbers in a dataset, in the terminal and as a figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from matscale.cli.data.pack import resolve
from matscale.cli.text import aligned
from matscale.core.errors import DataError
from matscale.core.files import write_text

BARS = " ▏▎▍▌▋▊▉█"
SHOWN = ("n_atoms", "energy_per_atom", "forces_norm", "stress_max")
"""Properties with a histogram in the terminal; --json and --html have all."""


@click.command()
@click.argument("dataset", metavar="DIR")
@click.option("--validation", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.1,
              show_default=True, help="Share of validation in the split that is shown.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the split.")
@click.option("--by", type=click.Choice(["group", "structure"]), default="group", show_default=True, help="Split by.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a figure to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def stats(dataset: str, validation: float, seed: int, by: str, html: Path | None, as_json: bool) -> None:
    """Print moments and histograms of the dataset DIR by source and by split."""
    from matscale.core.data.store.packed import PackedDataset  # start-up: torch

    opened = PackedDataset.open(resolve(dataset))
    tables = dict(opened.manifest.statistics)
    try:
        tables |= _split_tables(opened, validation, seed, by)
    except DataError as error:  # one group or one structure cannot be split; other parts are shown
        click.echo(f"No split: {error}", err=True)
    if html is not None:
        from matscale.core.report.dataset_figure import figure  # start-up: numpy

        write_text(html, figure(str(opened.path), tables))
        click.echo(f"figure: {html}", err=True)
    if as_json:
        elements = opened.manifest.elements
        click.echo(json.dumps({"n_structures": len(opened), "elements": elements, "parts": tables}))
    else:
        click.echo(_text(opened.manifest.elements, tables))


def _split_tables(opened: Any, validation: float, seed: int, by: Any) -> dict[str, Any]:
    from matscale.core.data.split import split  # start-up: numpy
    from matscale.core.data.store.statistics import by_part

    parts = split(opened, validation, seed, by)
    tallies = by_part(opened, {"train": parts.train, "validation": parts.validation})
    return {name: tally.plain() for name, tally in tallies.items()}


def _text(elements: dict[str, int], tables: dict[str, Any]) -> str:
    from matscale.core.data.store.statistics import PROPERTIES  # start-up: numpy

    total = max(sum(elements.values()), 1)
    common = sorted(elements.items(), key=lambda item: -item[1])[:12]
    blocks = ["atoms by element: " + ", ".join(f"{s} {100 * n / total:.3g} %" for s, n in common)
              + (f", ... ({len(elements)} elements)" if len(elements) > 12 else "")]  # fmt: skip
    for name, prop in PROPERTIES.items():
        rows: list[tuple[str, ...]] = [(f"{name} [{prop.unit or '1'}]", "count", "mean", "std", "rms", "min", "max")]
        for part, values in tables.items():
            moments = values[name]
            if moments["count"]:
                numbers = (f"{moments[k]:.4g}" for k in ("mean", "std", "rms", "min", "max"))
                rows.append((f"  {part}", f"{moments['count']:,}", *numbers))
        if len(rows) > 1:
            blocks.append(aligned(rows, right=range(1, 7)))
            if name in SHOWN:
                blocks[-1] += "\n" + _histogram(tables["all"][name], prop)
    return "\n\n".join(blocks)


def _histogram(moments: dict[str, Any], prop: Any, n_rows: int = 12) -> str:
    """Draw a histogram in at most `n_rows` lines, which cover all filled bins; neighbouring bins may share a line."""
    from matscale.core.data.store.statistics import edge  # start-up: numpy

    bins = {number: count for number, count in moments["bins"]}  # noqa: C416 - pairs are lists here
    if not bins:
        return ""
    low, high = min(bins), max(bins)
    step = -(-(high - low + 1) // n_rows)
    joined: dict[int, int] = {}
    for number, count in bins.items():
        joined[(number - low) // step] = joined.get((number - low) // step, 0) + count
    most, lines = max(joined.values()), []
    for k in range((high - low) // step + 1):
        count = joined.get(k, 0)
        left, right = (edge(number, moments, prop) for number in (low + k * step, low + (k + 1) * step))
        lines.append(f"  {left:>9.3g} .. {right:<9.3g} {_bar(count / most, 30):<30} {count:,}")
    if moments["zeros"]:
        lines.append(f"  {'exactly 0':<22} {_bar(moments['zeros'] / most, 30):<30} {moments['zeros']:,}")
    return "\n".join(lines)


def _bar(share: float, width: int) -> str:
    eighths = round(min(share, 1.0) * width * 8)
    return "█" * (eighths // 8) + (BARS[eighths % 8] if eighths % 8 else "")
