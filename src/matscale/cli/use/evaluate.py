"""`matscale evaluate`: errors of trained models and of baselines on a dataset, also by group."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from matscale.cli.progress.reporter import reporter
from matscale.cli.text import COLUMNS, aligned, errors_table
from matscale.cli.use.options import data_option, evaluation_options, runs_argument
from matscale.core.files import finite
from matscale.core.inference.columns import Column, columns

if TYPE_CHECKING:
    from matscale.core.inference.side_by_side import Evaluation, Model

Split = Literal["auto", "validation", "train", "all"]
WAYS = ("element", "source", "n_atoms", "formula")
MORE = columns(
    {
        "energy RMSE [meV/atom]": "energy_rmse",
        "forces RMSE [meV/Å]": "forces_rmse",
        "forces cosine": "forces_cos",
        "stress isotropic [meV/Å³]": "stress_isotropic_mae",
        "anisotropic [meV/Å³]": "stress_anisotropic_mae",
    }
)
"""Columns of the second table, by their headings."""
SHOWN = 40
"""Largest number of groups in a table; JSON has all."""

AVERAGED = {"auto": None, "average": True, "raw": False}


@click.command()
@runs_argument
@data_option
@click.option(
    "--by", multiple=True, type=click.Choice(WAYS), help="Also show the errors of each group; may be repeated."
)
@click.option(
    "--worst",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="Number of structures to list: those with the largest loss.",
)
@evaluation_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON in eV units, by model.")
def evaluate(
    runs: tuple[Path, ...], data: str | None, by: tuple[str, ...], worst: int, as_json: bool, **options: Any
) -> None:
    """Print the errors of the trained models in folders RUN, and those of baselines beside them.

    Several models are measured on the same structures. Baselines are fitted on the training part of a run, as the model
    was. With --by element, a group has the forces on the atoms of one element, and the energies and stresses of the
    structures that contain this element.
    """
    tell = _json if as_json else _text
    evaluated(runs, data, lambda found: click.echo(tell(found)), by=by, n_worst=worst, **options)


def evaluated(
    runs: Sequence[Path],
    data: str | None,
    show: Callable[[Evaluation], None],
    *,
    which: Split,
    checkpoint: str,
    weights: str,
    **options: Any,
) -> None:
    """Evaluate runs and call `show` with the result. Prints to stderr which structures are measured or left out.

    `options` are those of `evaluate_runs`. A file in `data` is packed for the time of the call.
    """
    from matscale.core.inference.side_by_side import evaluate_runs, names_of, opened  # start-up: torch
    from matscale.core.runs.record import Run

    records = names_of([Run.open(run) for run in runs])
    with ExitStack() as stack:
        with reporter() as progress:
            dataset = stack.enter_context(opened(data, list(records.values()), progress))
            found = evaluate_runs(
                records,
                dataset,
                which,
                checkpoint=checkpoint,
                averaged=AVERAGED[weights],
                progress=progress,
                **options,
            )
        for reason in found.left_out:
            click.echo(f"Left out: {reason}", err=True)
        name = data if data and Path(data).is_file() else dataset.path
        click.echo(f"{name}: measured on {len(found.rows):,} of {len(dataset):,} structures.", err=True)
        if found.without_baselines:
            missing = f"the run's own training data are not available. {found.without_baselines}"
            click.echo(f"No baselines: {missing}", err=True)
        show(found)


def _json(found: Evaluation) -> str:
    models = {model.name: model.plain() for model in found.models}
    return json.dumps(finite(models), indent=2, ensure_ascii=False, allow_nan=False)


def _text(found: Evaluation) -> str:
    metrics = {model.name: model.metrics for model in found.models}
    parts = [errors_table(metrics), _table(["model"], [([name], each) for name, each in metrics.items()], MORE)]
    for way in found.runs[0].survey.sums:
        parts += _groups(found, way)
    for model in found.runs:
        parts += _worst(model, len(found.runs) > 1)
    return "\n\n".join(parts)


def _table(
    heads: list[str], rows: Sequence[tuple[list[str], Mapping[str, float]]], columns: Mapping[str, Column]
) -> str:
    """Text table of metrics; `heads` are the headings of the columns in front of the metrics."""
    told = [[*words, *(one.cell(metrics) for one in columns.values())] for words, metrics in rows]
    return aligned([[*heads, *columns], *told], right=range(len(heads), len(heads) + len(columns)))


def _groups(found: Evaluation, way: str) -> list[str]:
    """Table of errors for one way of grouping: a row for each group and model. Only the largest groups are shown.

    Only the baseline with the lowest loss is shown."""
    best = sorted(found.baselines, key=lambda model: model.metrics.get("loss", float("inf")))[:1]
    models = {model.name: model.survey.groups()[way] for model in (*found.runs, *best)}
    groups = models[found.runs[0].name]
    largest = sorted(groups, key=lambda key: -groups[key]["n_structures"])[:SHOWN]
    rows = [
        ([key, name, f"{each[key]['n_structures']:,}"], each[key])
        for key in groups
        if key in largest
        for name, each in models.items()
    ]
    columns = {head: COLUMNS[head] for head in list(COLUMNS)[:4]}
    table = _table([way, "model", "structures"], rows, {**columns, "cosine": MORE["forces cosine"]})
    hidden = len(groups) - len(largest)
    return [table + (f"\n{hidden:,} smaller groups are in --json" if hidden else "")]


def _worst(model: Model, is_named: bool) -> list[str]:
    worst = model.survey.worst()
    if not worst:
        return []
    heads = ["row", "formula", "atoms", "source"]
    errors = {
        "loss": Column("loss", 1.0, "{:.3g}"),
        "energy [meV/atom]": Column("energy", 1e3, "{:.1f}"),
        "forces [meV/Å]": Column("forces", 1e3, "{:.1f}"),
        "stress [meV/Å³]": Column("stress", 1e3, "{:.2f}"),
    }
    rows = [([str(bad.row), bad.formula, str(bad.n_atoms), bad.source], bad.errors) for bad in worst]
    of_model = f" of {model.name}" if is_named else ""
    title = f"Structures with the largest loss{of_model} (forces: mean length of the error)"
    return [f"{title}\n{_table(heads, rows, errors)}"]
