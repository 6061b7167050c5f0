"""`matscale view`: look at the predictions of trained models, in one HTML page or an animated GIF."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from matscale.cli.use.evaluate import AVERAGED, evaluated
from matscale.cli.use.options import data_option, evaluation_options, runs_argument
from matscale.core.errors import ConfigError
from matscale.core.files import write_text


@click.command()
@runs_argument
@data_option
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default="view.html",
              show_default=True, help="The page.")  # fmt: skip
@click.option("--structures", "n_structures", type=click.IntRange(1, 2000), default=60, show_default=True,
              help="Number of structures in the page: half with the largest errors, the others at random.")  # fmt: skip
@click.option("--row", "rows", type=click.IntRange(0), multiple=True, metavar="ROW",
              help="Row of the data to show first; may be repeated.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the random structures.")
@click.option("--gif", type=click.Path(path_type=Path, dir_okay=False),
              help="Also write the first structure over the stored steps as an animated GIF.")  # fmt: skip
@evaluation_options
def view(
    runs: tuple[Path, ...],
    data: str | None,
    output: Path,
    n_structures: int,
    rows: tuple[int, ...],
    seed: int,
    gif: Path | None,
    weights: str,
    **options: Any,
) -> None:
    """Show the predictions of the trained models in folders RUN in one HTML file that needs no network.

    The page has the errors of `matscale evaluate`, parity plots, errors by element, size and source, and a viewer of
    structures with labelled and predicted forces at every stored step of the training.
    """
    from matscale.cli.progress.reporter import reporter  # start-up: torch
    from matscale.core.view.gather import gather
    from matscale.core.view.gif import write_gif
    from matscale.core.view.page import page

    for path in filter(None, (output, gif)):
        if path.parent != Path() and not path.parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {path.parent}. Make it, or choose another file.")
    if gif is not None and gif.suffix != ".gif":
        raise ConfigError(f"{gif}: is written as GIF. Use a name that ends in .gif.")
    called = click.get_current_context().command_path
    command = shlex.join([called, *map(str, runs), *(["--data", data] if data else []), "-o", str(output)])

    def show(found: Any) -> None:
        with reporter() as progress:
            seen = gather(
                found,
                n_structures,
                seed=seed,
                rows=rows,
                averaged=AVERAGED[weights],
                data=data,
                progress=progress,
            )
        write_text(output, page(seen, command))
        size = f"{output.stat().st_size / 1e6:.1f} MB"
        click.echo(f"{output}  {size}, {len(seen.shown):,} of {len(found.rows):,} structures")
        for note in seen.notes:
            click.echo(f"note: {note}", err=True)
        if gif is not None:
            n_steps = write_gif(seen, gif)
            click.echo(f"{gif}  row {seen.shown[0].row} at {n_steps} steps")

    by, n_worst = ("element", "source", "n_atoms"), n_structures
    evaluated(runs, data, show, weights=weights, by=by, n_worst=n_worst, parity=True, **options)
