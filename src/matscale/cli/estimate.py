"""`matscale estimate`: estimate the cost of a run, or of every run of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matscale.cli.progress.reporter import reporter
from matscale.cli.text import aligned, duration, parameter_counts, size_of
from matscale.cli.train import training_options
from matscale.core.errors import ConfigError
from matscale.core.train.options import configuration, given

if TYPE_CHECKING:
    from matscale.core.study.estimates import EstimatedRun, Estimator
    from matscale.core.study.plan import StudyPlan

if TYPE_CHECKING:
    from matscale.core.estimate.estimate import Estimate


@click.command()
@click.argument("study", type=click.Path(path_type=Path), required=False, metavar="[STUDY.toml]")
@training_options
@click.option(
    "--on",
    metavar="DEVICE",
    help="Estimate the time on another device from its peak and --mfu: A100, H100, 'RTX 4090'.",
)
@click.option(
    "--mfu",
    type=click.FloatRange(0, 1, min_open=True),
    help="Assumed share of the peak, in place of timed steps.  [default with --on: 0.05]",
)
@click.option(
    "--time-steps",
    type=click.IntRange(0),
    help="Number of timed training steps; 0: none, as with --mfu.  [default: 8; 3 for each size of a study]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in bytes and seconds.")
def estimate(
    study: Path | None,
    arch: str | None,
    size: str | None,
    params: int | None,
    file: Path | None,
    assignments: tuple[str, ...],
    on: str | None,
    mfu: float | None,
    time_steps: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Estimate the cost of a training run; the options are those of `matscale train`.

    With STUDY.toml, the cost of every run of the study is estimated, as a table. FLOPs are counted as in the run. The
    time comes from a few timed steps on this machine, or from the peak of a device and an assumed share of this peak
    (MFU).
    """
    if study is not None:
        if arch or size or params or file or assignments or options["batch"] or given(options):
            raise ConfigError(f"{study}: a study file sets all options of its runs. Leave out --arch, --params, --set.")
        _study(study, on, mfu, time_steps, as_json)
        return
    from matscale.core.estimate.estimate import TIME_STEPS  # start-up: torch
    from matscale.core.estimate.estimate import estimate as estimated

    time_steps = TIME_STEPS if time_steps is None else time_steps
    config, architecture = configuration(arch, size, params, file, given(options), assignments, None)
    with reporter() as progress:
        if options["batch"] == "auto":
            from matscale.core.estimate.probe import with_fitting_batch  # start-up: torch

            config = with_fitting_batch(config, architecture, progress=progress)
        found = estimated(
            config, device=on, mfu=mfu, time_steps=time_steps, architecture=architecture, progress=progress
        )
    click.echo(json.dumps(found.plain(), indent=2, ensure_ascii=False) if as_json else page(found))


def page(e: Estimate) -> str:
    """Format an estimate as text for a terminal."""
    assumed = "reached" if e.seconds_by.startswith("timed") else "assumed"
    lines = {
        "parameters": parameter_counts(e.parameters),
        "steps": f"{e.steps:,} ({e.epochs:.3g} epochs)",
        "FLOPs": f"{e.flops:.3g} in training, {e.flops_per_step:.3g} a step; {e.validation_flops:.3g} in validation",
        "": f"by {e.flops_counted_by}; additional element-wise work: {100 * e.elementwise_share:.1f} %",
        "memory": f"{size_of(e.memory_bytes)}; activations {size_of(e.activation_bytes)}, "
        f"optimizer {size_of(e.optimizer_bytes)}",
        "time": f"{duration(e.seconds)} on {e.device}, {e.device_hours:.3g} device-hours; {e.seconds_by}",
        " ": f"MFU {100 * e.mfu:.2g} % {assumed}, of {e.peak_flops_per_s:.3g} FLOP/s ({e.peak_by})",
        "disk": size_of(e.disk_bytes),
    }
    return f"{e.architecture}\n" + aligned([[f"  {key}", value] for key, value in lines.items()])


def _study(path: Path, on: str | None, mfu: float | None, time_steps: int | None, as_json: bool) -> None:
    from matscale.core.study.config import Study  # start-up: torch
    from matscale.core.study.plan import plan

    with reporter() as progress:
        planned = plan(Study.read(path), progress, fetches=False)
    for note in planned.notes:
        click.echo(f"Note: {note}", err=True)
    show(planned, on, mfu, time_steps, as_json)


def show(planned: StudyPlan, device: str | None, mfu: float | None, time_steps: int | None, as_json: bool) -> None:
    """Print the estimated cost of each run of a study; `time_steps` is the number of timed steps per kind of run.

    None means the default number.
    """
    from matscale.core.study.estimates import TIME_STEPS, Estimator, estimates, totals  # start-up: torch

    with reporter() as progress:
        estimator = Estimator(device, mfu, TIME_STEPS if time_steps is None else time_steps, progress)
        rows = estimates(planned, estimator)
    left = [row for row in rows if row.status != "completed"]
    if as_json:
        found = {"runs": [row.plain() for row in rows], "total": totals(rows), "to_do": totals(left)}
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    heading = ["RUN", "PARAMETERS", "N", "STRUCTURES", "STEPS", "FLOPS", "MEMORY", "TIME", "DISK", "STATUS"]
    table = [heading, *(_cells(row) for row in rows), ["total", "", "", "", "", *_sums(totals(rows)), ""]]
    click.echo(aligned(table, right=range(1, 9)))
    if 0 < len(left) < len(rows):
        flops, _, time, disk = _sums(totals(left))
        click.echo(f"{len(rows) - len(left)} of {len(rows)} runs are complete; to do: {flops} FLOPs, {time}, {disk}.")
    click.echo(f"N: parameters without embeddings, which laws use. {_basis(rows, estimator)}")
    click.echo(f"Study: {planned.folder}")


def _cells(row: EstimatedRun) -> list[str]:
    e = row.estimate
    counts = [f"{n:,}" for n in (e.parameters["total"], e.parameters["non_embedding"], row.run.n_train, e.steps)]
    cost = [f"{e.flops:.3g}", size_of(e.memory_bytes), duration(e.seconds), size_of(e.disk_bytes)]
    return [row.run.name, *counts, *cost, row.status]


def _sums(total: dict[str, float]) -> list[str]:
    return [f"{total['flops']:.3g}", "", duration(total["seconds"]), size_of(total["disk_bytes"])]


def _basis(rows: list[EstimatedRun], estimator: Estimator) -> str:
    """Sentence on where the estimated times come from: an assumed MFU, or steps timed on this machine."""
    e, kinds = rows[0].estimate, len(estimator.prices)
    if e.seconds_by == "peak × MFU":
        return f"Time on {e.device}: {100 * e.mfu:.2g} % of {e.peak_flops_per_s:.3g} FLOP/s is assumed."
    return (
        f"Time on {e.device}, one run after the other: steps, a validation batch and a checkpoint were timed here for "
        f"{kinds} kinds of step."
    )
