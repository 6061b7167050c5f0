"""`matscale evaluate` and `matscale predict`: errors and predictions of a trained model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from matscale.cli.progress.reporter import reporter
from matscale.cli.text import errors_json, errors_table
from matscale.cli.types import limit_option
from matscale.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from matscale.core.data.store.packed import PackedDataset
    from matscale.core.runs.record import Run

run_argument = click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
checkpoint_option = click.option(
    "--checkpoint",
    default="best",
    show_default=True,
    metavar="best|last|STEP",
    help="Checkpoint; its averaged weights are used if there are any.",
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1; auto takes a GPU if there is one."
)
dtype_option = click.option(
    "--dtype", type=click.Choice(["float32", "float64"]), help="Arithmetic of the model.  [default: as trained]"
)

net_force_option = click.option(
    "--zero-net-force",
    is_flag=True,
    help="Subtract the mean force of each structure: direct forces do not sum to zero otherwise.",
)


@click.command()
@run_argument
@click.option("--data", "data", help="Packed dataset: a path or a name.  [default: that of the run]")
@click.option(
    "--split",
    "which",
    type=click.Choice(["auto", "validation", "train", "all"]),
    default="auto",
    show_default=True,
    help="Part to measure on; auto: the run's validation part of its own dataset, all of any other.",
)
@checkpoint_option
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Structures in a batch.")
@device_option
@dtype_option
@net_force_option
@click.option("--skip-invalid", is_flag=True, help="Leave out and list structures that the model cannot predict.")
@click.option("--baselines/--no-baselines", default=True, show_default=True, help="Show the errors of baselines, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in eV units, by model.")
def evaluate(
    run: Path,
    data: str | None,
    which: Literal["auto", "validation", "train", "all"],
    checkpoint: str,
    batch: int,
    device: str,
    dtype: str | None,
    zero_net_force: bool,
    skip_invalid: bool,
    baselines: bool,
    as_json: bool,
) -> None:
    """Print the errors of the trained model in folder RUN, and those of baselines beside them.

    Baselines are fitted on the training part of the run, as the model was.
    """
    from matscale.core.data.named.catalog import resolve  # start-up: torch
    from matscale.core.data.store.packed import PackedDataset
    from matscale.core.inference.compare import dataset_of, measure, rows_of, usable, without_dataset
    from matscale.core.inference.load import load
    from matscale.core.runs.record import Run

    record = Run.open(run)
    if data is None and (message := without_dataset(record)):
        raise ConfigError(message)
    with reporter() as progress:
        dataset = (
            PackedDataset.open(resolve(data, progress), progress=progress) if data else dataset_of(record, progress)
        )
        dataset.check()
    rows = rows_of(record, dataset, which)
    potential = load(record, checkpoint, device=device, dtype=dtype, zero_net_force=zero_net_force)
    rows, left_out = usable(record, potential, dataset, rows, skip_invalid=skip_invalid)
    for reason in left_out:
        click.echo(f"Left out: {reason}", err=True)
    click.echo(f"{dataset.path}: measuring on {len(rows):,} of {len(dataset):,} structures.", err=True)
    with reporter() as dataset.progress:
        models = {record.config.architecture.name: measure(potential, dataset, rows, batch, any_element=True)}
        if baselines:
            models |= _baselines(record, dataset, rows)
    click.echo(errors_json(models) if as_json else errors_table(models))


def _baselines(run: Run, dataset: PackedDataset, rows: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """Errors of the baselines on rows of the dataset, by name.

    If the run's training data are missing, prints the reason and returns an empty dictionary.
    """
    from matscale.core.baselines import evaluate_baselines, passes  # start-up: torch
    from matscale.core.inference.compare import baselines_of

    try:
        baselines = baselines_of(run)
    except DataError as error:
        click.echo(f"No baselines: the run's own training data are not available. {error}", err=True)
        return {}
    return evaluate_baselines(baselines, passes(dataset, rows))


@click.command()
@run_argument
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="extxyz file to write.")
@checkpoint_option
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Structures in a batch.")
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
