"""`matscale baselines`: errors of simple predictors on a dataset, which a model should beat."""

from __future__ import annotations

from typing import Literal

import click

from matscale.cli.progress.reporter import reporter
from matscale.cli.text import errors_json, errors_table


@click.command()
@click.option("--data", "data", default="emt", show_default=True, help="Packed dataset: a path or a name.")
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the structures that is held out.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the split.")
@click.option(
    "--by",
    type=click.Choice(["group", "structure"]),
    default="group",
    show_default=True,
    help="Structures that the split keeps together: those of a formula or trajectory (group), or none (structure).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON in eV units, by baseline.")
def baselines(data: str, validation: float, seed: int, by: Literal["group", "structure"], as_json: bool) -> None:
    """Print the errors of four simple predictors on a dataset, which a model should beat.

    They are fitted on the training part and measured on the validation part of one seeded split: the same split that
    `matscale train` makes with the same share and seed. zero predicts 0. mean predicts the means per atom. composition
    predicts a sum of element energies. nearest looks up an atom's element and the element of its nearest neighbour.
    """
    from matscale.core.baselines import evaluate_baselines, fit_baselines, passes  # start-up: torch
    from matscale.core.data.named.catalog import resolve
    from matscale.core.data.split import split
    from matscale.core.data.store.packed import PackedDataset

    with reporter() as progress:
        dataset = PackedDataset.open(resolve(data, progress), progress=progress)
        dataset.check()
    parts = split(dataset, validation, seed, by=by)
    click.echo(
        f"{dataset.path}: fitted on {len(parts.train):,} structures, measured on {len(parts.validation):,}.", err=True
    )
    models = evaluate_baselines(fit_baselines(dataset, parts.train), passes(dataset, parts.validation))
    click.echo(errors_json(models) if as_json else errors_table(models))
