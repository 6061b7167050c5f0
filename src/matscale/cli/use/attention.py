"""`matscale attention`: attention weights of a trained transformer against distance, as a table, JSON and one page."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from matscale.cli.progress.reporter import reporter
from matscale.cli.text import aligned
from matscale.cli.use.evaluate import AVERAGED
from matscale.cli.use.options import data_option, measured_options, run_argument
from matscale.core.errors import ConfigError
from matscale.core.files import finite, write_text

if TYPE_CHECKING:
    from matscale.core.attention.statistics import Head


@click.command()
@run_argument
@data_option
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False),
              help="The page.  [default: attention.html, and none with --json]")  # fmt: skip
@click.option("--structures", "n_structures", type=click.IntRange(1), default=200, show_default=True,
              help="Largest number of structures to measure; of more, they are drawn at random.")  # fmt: skip
@click.option("--row", type=click.IntRange(0), metavar="ROW",
              help="Row of the data to draw.  [default: the largest structure of up to 24 atoms]")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of structures and intervals.")
@measured_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the curves and the maps.")
def attention(
    run: Path,
    data: str | None,
    output: Path | None,
    n_structures: int,
    row: int | None,
    seed: int,
    which: Literal["auto", "validation", "train", "all"],
    checkpoint: str,
    weights: str,
    batch: int,
    device: str,
    dtype: str | None,
    skip_invalid: bool,
    as_json: bool,
) -> None:
    """Show the attention of the trained model in folder RUN: its weights against the distance between atoms.

    For each layer and head, prints the rank correlation of weight and distance, the decay length, and the weight of
    atoms on themselves, with 95 % intervals by bootstrap over structures. The page also has the weights against
    distance, the maps of one structure, and its complete graph, its cutoff graph and its learned attention.
    """
    from matscale.core.attention.gather import check_shows_attention, chosen, gather  # start-up: torch
    from matscale.core.attention.page import page
    from matscale.core.inference.compare import rows_of, usable
    from matscale.core.inference.load import load
    from matscale.core.inference.side_by_side import opened
    from matscale.core.runs.record import Run
    from matscale.core.runs.trained_potential import resolve_step

    target = output or (None if as_json else Path("attention.html"))
    if target is not None and not target.parent.is_dir():
        raise ConfigError(f"{target}: there is no folder {target.parent}. Make it, or choose another file.")
    record = Run.open(run)
    check_shows_attention(record)
    potential = load(record, checkpoint, device=device, dtype=dtype, averaged=AVERAGED[weights])
    with reporter() as progress, opened(data, [record], progress) as dataset:
        rows, left_out = usable(record, potential, dataset, rows_of(record, dataset, which), skip_invalid=skip_invalid)
        taken = chosen(rows, n_structures, seed)
        found = gather(record, potential, dataset, taken, row=row, batch=batch, seed=seed, progress=progress)
        name = data or str(dataset.path)
    for reason in left_out:
        click.echo(f"Left out: {reason}", err=True)
    click.echo(f"{name}: measured on {len(taken):,} of {len(dataset):,} structures.", err=True)
    click.echo(
        json.dumps(finite(found.plain()), ensure_ascii=False, allow_nan=False) if as_json else table(found.heads)
    )
    if target is not None:
        called = click.get_current_context().command_path
        words = [called, str(run), *(["--data", data] if data else []), "-o", str(target)]
        facts = {"command": shlex.join(words), "run": f"{run}, step {resolve_step(record, checkpoint)}"}
        write_text(target, page(found, facts, name))
        click.echo(f"{target}  {target.stat().st_size / 1e6:.1f} MB, row {found.drawn.row} drawn", err=as_json)


def table(heads: Iterable[Head]) -> str:
    """Format the statistics of heads as a text table, with the interval of each value in brackets."""
    from matscale.core.attention.gather import text  # start-up: torch

    rows = [["layer", "head", "rank correlation", "decay length [Å]", "weight on itself"]]
    for one in heads:
        cells = (text(one.rank), text(one.length), text(one.own, "{:.3f}"))
        rows.append([str(one.layer), str(one.head), *cells])
    return aligned(rows, right=range(5))
