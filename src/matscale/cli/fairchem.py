"""`matscale export`: runs, for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from matscale.cli.use import checkpoint_option, run_argument


@click.group("export")
def exporting() -> None:
    """Turn a run into a file of another program."""


@exporting.command()
@run_argument
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="File to write (.pt).")
@checkpoint_option
def fairchem(run: Path, target: Path, checkpoint: str) -> None:
    """Export a run to fairchem v1: an EquiformerV2, or what a plugin can export.

    The file has weights, element references and scales; fairchem's calculator predicts with it what the run predicts.
    What fairchem cannot express is refused by name: of an EquiformerV2 it needs the published stress head (`--set
    architecture.config.stress_head=rank2` in training), direct forces and a limit of neighbours.
    """
    from matscale.core.fairchem.export import export_run
    from matscale.core.model.architecture import count_parameters
    from matscale.core.runs.record import Run

    record = Run.open(run)
    potential = export_run(record, target, checkpoint)
    total = count_parameters(potential.model)["total"]
    click.echo(f"{record.config.architecture.name}, {total:,} parameters, for fairchem v1: {target}")
