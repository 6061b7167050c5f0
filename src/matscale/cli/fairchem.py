"""`matscale import` and `matscale export`: convert models of other programs to runs, and runs to their file formats."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from matscale.cli.use.options import checkpoint_option, run_argument


@click.group("import")
def importing() -> None:
    """Turn a model of another program into a run."""


@importing.command("fairchem")
@click.argument("checkpoint", metavar="CHECKPOINT", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="Run folder to make.")
@click.option(
    "--weights",
    type=click.Choice(["auto", "ema", "raw"]),
    default="auto",
    show_default=True,
    help="Averaged or raw weights; auto: averaged if there are any.",
)
def import_fairchem(checkpoint: Path, target: Path, weights: Literal["auto", "ema", "raw"]) -> None:
    """Import a model of fairchem: SchNet, GemNet-T, -dT or -OC, EquiformerV2 or EScAIP.

    CHECKPOINT (.pt) is a checkpoint of fairchem v1 or, for EScAIP, an inference checkpoint of fairchem v2. Element
    references, normalizers and scale factors are imported, too. Plugins can add architectures.

    The run predicts the same as fairchem's calculator; use it with `matscale evaluate`, `predict` and
    `matscale.calculator`. CHECKPOINT is a pickled file: it is read in a separate process, and refused if it holds
    anything but numbers and texts. fairchem's own calculator uses raw weights if it reads checkpoint.pt, and averaged
    weights if it reads best_checkpoint.pt.
    """
    from ase.data import chemical_symbols  # start-up: torch

    from matscale.core.fairchem.run import import_run

    run, imported = import_run(checkpoint, target, weights)
    kind = {"ema": "averaged (EMA)", "raw": "raw"}[imported.weights]
    known = " ".join(chemical_symbols[z] for z in imported.info.elements)
    for note in imported.notes:
        click.echo(note, err=True)
    click.echo(
        f"{imported.architecture}, {run.info['parameters']['total']:,} parameters, {kind} weights. Elements: {known}"
    )
    click.echo(f"Run: {run.path}")


@click.group("export")
def exporting() -> None:
    """Turn a run into a file of another program."""


@exporting.command("fairchem")
@run_argument
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="File to write (.pt).")
@checkpoint_option
def export_fairchem(run: Path, target: Path, checkpoint: str) -> None:
    """Export a run to fairchem v1: an EquiformerV2, or an architecture whose plugin can export it.

    The file has weights, element references and scales, with which fairchem's calculator predicts the same as the run.
    Options without a counterpart in fairchem are refused. An EquiformerV2 therefore needs the published stress head
    (`--set architecture.config.stress_head=rank2` in training), direct forces and a limit on neighbours.
    """
    from matscale.core.fairchem.export import export_run  # start-up: torch
    from matscale.core.model.architecture import count_parameters
    from matscale.core.runs.record import Run

    record = Run.open(run)
    potential = export_run(record, target, checkpoint)
    total = count_parameters(potential.model)["total"]
    click.echo(f"{record.config.architecture.name}, {total:,} parameters, for fairchem v1: {target}")
