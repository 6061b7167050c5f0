"""`matscale predict`: predictions of a trained model for structures in a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from matscale.cli.progress.reporter import reporter
from matscale.cli.types import limit_option
from matscale.cli.use.options import (
    batch_option,
    checkpoint_option,
    device_option,
    dtype_option,
    net_force_option,
    run_argument,
)


@click.command()
@run_argument
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="extxyz file to write.")
@checkpoint_option
@batch_option
@device_option
@dtype_option
@click.option("--unit", "units", multiple=True, metavar="LABEL=UNIT",
              help="Unit of length or of a label: length=Bohr, ...  [default: as FILE states it]")  # fmt: skip
@limit_option
@net_force_option
@click.option("--skip-invalid", is_flag=True, help="Leave out and list structures that cannot be predicted.")
def predict(
    run: Path,
    source: Path,
    target: Path,
    checkpoint: str,
    batch: int,
    device: str,
    dtype: str | None,
    units: tuple[str, ...],
    zero_net_force: bool,
    skip_invalid: bool,
) -> None:
    """Predict energy, forces and stress of the structures in FILE with the model in RUN.

    FILE is anything that `matscale data pack` reads. Structures are written in the order of FILE, with all values that
    FILE has for them. The predictions are the labels energy, forces and stress, which replace labels of these names.
    """
    from matscale.core.data.sources.labels import Keys  # start-up: torch
    from matscale.core.inference.load import load
    from matscale.core.inference.predict import predict_file

    keys, notes = Keys.parse((), units=units), Counter[str]()
    potential = load(run, checkpoint, device=device, dtype=dtype, zero_net_force=zero_net_force)
    with reporter() as progress:
        written, skipped = predict_file(
            potential,
            source,
            target,
            batch=batch,
            skip_invalid=skip_invalid,
            keys=keys,
            notes=notes,
            progress=progress,
        )
    for note, n in notes.most_common(30):
        click.echo(f"note: {note} ({n:,} structures)", err=True)
    for item in skipped:
        click.echo(f"Left out structure {item.position} (counted from 0): {item.reason}", err=True)
    left_out = f", {len(skipped):,} left out" if skipped else ""
    click.echo(f"{target}: {written:,} {'structure' if written == 1 else 'structures'}{left_out}")
