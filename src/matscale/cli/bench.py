"""`matscale bench`: speed, memory and numerical error of models on this device, by path and precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matscale.cli.progress.reporter import reporter
from matscale.cli.text import aligned, size_of
from matscale.cli.types import ArchitectureName, ParameterCount
from matscale.core.errors import ConfigError, MatscaleError
from matscale.core.train.options import configuration, given

if TYPE_CHECKING:
    from matscale.core.estimate.bench import Bench, Row

HEADING = ["PATH", "PRECISION", "STEP", "PREDICTION", "ATOMS/S", "MEMORY", "MFU", "LOSS", "FORCES", "GRADIENT"]


@click.command()
@click.option(
    "--arch", "archs", multiple=True, type=ArchitectureName, help="Architecture; may be repeated. [default: all]"
)
@click.option("--size", metavar="NAME", help="Published configuration; `matscale models show` lists them.")
@click.option("--params", type=ParameterCount(), help="Size: rung of the ladder nearest to 30k, 1M, ... parameters.")
@click.option("--data", help="Packed dataset: a path or a name.  [default: emt]")
@click.option("--batch", type=click.IntRange(1), help="Structures in the batch.  [default: 16]")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override any key of the configuration.")
@click.option("--device", help="cpu, cuda, cuda:1.  [default: a GPU if there is one]")
@click.option(
    "--path",
    "paths",
    multiple=True,
    type=click.Choice(["readable", "fast", "compiled"]),
    help="Path; may be repeated.  [default: all; compiling takes minutes on a CPU]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["fp64", "fp32", "tf32", "bf16", "fp16"]),
    help="Precision; may be repeated.  [default: those of the device]",
)
@click.option(
    "--time-steps", type=click.IntRange(1), default=8, show_default=True, help="Smallest number of timed steps."
)
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Measure the trained model of this run, and keep the result in its run.json (precision_ledger).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in seconds and bytes.")
def bench(
    archs: tuple[str, ...],
    size: str | None,
    params: int | None,
    data: str | None,
    batch: int | None,
    assignments: tuple[str, ...],
    device: str | None,
    paths: tuple[Any, ...],
    precisions: tuple[str, ...],
    time_steps: int,
    record: Path | None,
    as_json: bool,
) -> None:
    """Measure models on this device: time of a step and of a prediction, atoms/s, memory, MFU, and errors.

    The errors of the loss, the forces and the gradient are relative to those of the readable path in float64, with the
    same weights and the same batch. A path is the readable form of a model, the fast form that training uses, or the
    compiled one.
    """
    from matscale.core.estimate import bench as core  # start-up: torch

    options: dict[str, Any] = {
        "paths": paths or core.PATHS,
        "precisions": precisions or None,
        "time_steps": time_steps,
    }
    if record is not None:
        from matscale.core.runs.record import Run  # start-up: torch

        if archs or size or params or data or batch or assignments:
            raise ConfigError(
                f"--record {record}: the run sets the model and the data. Leave out --arch, --size, --params, "
                "--data, --batch and --set."
            )
        run = Run.open(record)
        with reporter() as progress:
            found = [core.bench_run(run, device, progress=progress, **options)]
        core.record(run, found[0])
    else:
        found = _of_architectures(
            archs, size, params, given({"data": data, "batch": batch, "device": device}), assignments, options
        )
    if as_json:
        click.echo(json.dumps([one.plain() for one in found], indent=2, ensure_ascii=False))
    else:
        click.echo("\n\n".join(page(one) for one in found))


def _of_architectures(
    names: tuple[str, ...],
    size: str | None,
    params: int | None,
    chosen: dict[str, Any],
    assignments: tuple[str, ...],
    options: dict[str, Any],
) -> list[Bench]:
    """Measure each architecture. If there are several, one that cannot be measured is left out, with a message."""
    from matscale.core.data.named.catalog import resolve  # start-up: torch
    from matscale.core.estimate import bench as core  # start-up: torch
    from matscale.core.hosting.host import host  # start-up: packaging

    names = names or tuple(architecture.name for architecture in host().architectures())
    found = []
    with reporter() as progress:
        if "data.path" in chosen:
            resolve(chosen["data.path"], progress)  # first, since all would fail without the data
        for name in names:
            try:
                config, architecture = configuration(name, size, params, None, chosen, assignments, None)
                found.append(core.bench(config, architecture, progress=progress, **options))
            except MatscaleError as error:
                if len(names) == 1:
                    raise
                progress.said(f"{name} is left out: {error}")
                last = error
    if not found:
        raise last
    return found


def page(found: Bench) -> str:
    """Format the measurements of one model as a text table."""
    edges = f", {found.edges:,} edges" if found.edges else ""
    title = (
        f"{found.architecture}: {found.parameters['total']:,} parameters; {found.structures} structures, "
        f"{found.atoms:,} atoms{edges}; {found.flops_per_step:.3g} FLOPs a step\n"
        f"On {found.device}; errors relative to float64 by the readable path on {found.exact_on}"
    )
    table = aligned([HEADING, *(_cells(row) for row in found.rows if row.reason is None)], right=range(2, len(HEADING)))
    left_out = [f"{row.path}, {row.precision}: {row.reason}" for row in found.rows if row.reason is not None]
    return "\n".join([title, table, *left_out])


def _cells(row: Row) -> list[str]:
    times = ["-" if seconds is None else f"{1e3 * seconds:.3g} ms" for seconds in (row.step_s, row.prediction_s)]
    speed = "-" if row.atoms_per_s is None else f"{row.atoms_per_s:,.0f}"
    memory = "-" if row.memory_bytes is None else size_of(row.memory_bytes)
    mfu = "-" if row.mfu is None else f"{100 * row.mfu:.2g} %"
    errors = (row.loss_error, row.forces_error, row.gradient_error)
    return [row.path, row.precision, *times, speed, memory, mfu, *("-" if e is None else f"{e:.1e}" for e in errors)]
