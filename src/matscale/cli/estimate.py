"""`matscale estimate`: what a run, or every run of a study, would take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matscale.cli.stages import Stages
from matscale.cli.table import aligned
from matscale.cli.train import configuration, given, training_options
from matscale.core.errors import ConfigError
from matscale.core.train.progress import Progress

if TYPE_CHECKING:
    from matscale.core.estimate import Estimate
    from matscale.core.study.estimates import EstimatedRun


@click.command()
@click.argument("study", type=click.Path(path_type=Path), required=False, metavar="[STUDY.toml]")
@training_options
@click.option("--on", metavar="DEVICE", help="Time on another device, by its peak and --mfu: A100, H100, 'RTX 4090'.")
@click.option(
    "--mfu",
    type=click.FloatRange(0, 1, min_open=True),
    help="Assumed share of the peak, rather than to time steps.  [default with --on: 0.05]",
)
@click.option(
    "--time-steps",
    type=click.IntRange(0),
    default=8,
    show_default=True,
    help="Training steps that are timed; 0: none, as if --mfu were given. Of a study always none.",
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
    time_steps: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Estimate a training run before it is spent; the options are those of `matscale train`.

    Or every run of STUDY.toml, as a table. FLOPs are the run's own accounting; time comes from a few timed steps on
    this machine, or from the peak of a device and the share of it (MFU) that is assumed to be reached.
    """
    from matscale.core.estimate import estimate as estimated

    if study is not None:
        _study(study, bool(arch or size or params or file or assignments or given(options)), on, mfu, as_json)
        return
    config, architecture = configuration(arch, size, params, file, given(options), assignments, None)
    with Stages() as stages:
        found = estimated(
            config, device=on, mfu=mfu, time_steps=time_steps, architecture=architecture, progress=_Shown(stages)
        )
    click.echo(json.dumps(found.plain(), indent=2, ensure_ascii=False) if as_json else page(found))


class _Shown(Progress):
    """Stages and warnings on stderr."""

    def __init__(self, stages: Stages) -> None:
        self.stage = stages  # type: ignore[method-assign]

    def said(self, message: str) -> None:
        click.echo(message, err=True)


def page(e: Estimate) -> str:
    """For people."""
    counts = ", ".join(f"{count:,} {word.replace('_', '-')}" for word, count in e.parameters.items())
    assumed = "reached" if e.seconds_by.startswith("timed") else "assumed"
    lines = {
        "parameters": counts,
        "steps": f"{e.steps:,} ({e.epochs:.3g} epochs)",
        "FLOPs": f"{e.flops:.3g} in training, {e.flops_per_step:.3g} a step; {e.validation_flops:.3g} in validation",
        "": f"by {e.flops_counted_by}; element-wise work besides: {100 * e.elementwise_share:.1f} %",
        "memory": f"{size_of(e.memory_bytes)}; activations {size_of(e.activation_bytes)}, "
        f"optimizer {size_of(e.optimizer_bytes)}",
        "time": f"{duration(e.seconds)} on {e.device}, {e.device_hours:.3g} device-hours; {e.seconds_by}",
        " ": f"MFU {100 * e.mfu:.2g} % {assumed}, of {e.peak_flops_per_s:.3g} FLOP/s ({e.peak_by})",
        "disk": size_of(e.disk_bytes),
    }
    return f"{e.architecture}\n" + aligned([[f"  {key}", value] for key, value in lines.items()])


def size_of(n_bytes: float) -> str:
    """3 GB, 21 MB, 4 kB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes / 1e3:.3g} kB"


def duration(seconds: float) -> str:
    """2 h 5 min, 3 min 20 s, 12.5 s."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    if minutes < 60:
        return f"{int(minutes)} min {int(seconds % 60)} s"
    return f"{int(minutes // 60):,} h {int(minutes % 60)} min"


def _study(path: Path, has_options: bool, on: str | None, mfu: float | None, as_json: bool) -> None:
    if has_options:
        raise ConfigError(f"{path}: a study says all that its runs are. Leave the options of a single run out.")
    from matscale.core.study.config import Study
    from matscale.core.study.estimates import estimates, totals
    from matscale.core.study.plan import plan

    with Stages() as stages:
        planned = plan(Study.read(path), stages)
        rows = list(estimates(planned, on, mfu, _Shown(stages), lambda done, of: stages("Estimates", done, of)))
    total = totals(rows)
    if as_json:
        click.echo(json.dumps({"runs": [r.plain() for r in rows], "total": total}, indent=2, ensure_ascii=False))
        return
    table = [["RUN", "PARAMETERS", "STEPS", "FLOPS", "MEMORY", "TIME", "DISK"]]
    table += [_cells(row) for row in rows]
    sums = [f"{total['flops']:.3g}", "", duration(total["seconds"]), size_of(total["disk_bytes"])]
    click.echo(aligned([*table, ["total", "", "", *sums]], right=(1, 2, 3, 4, 5, 6)))
    first = rows[0].estimate
    click.echo(f"Time on {first.device}: {100 * first.mfu:.2g} % of {first.peak_flops_per_s:.3g} FLOP/s is assumed.")


def _cells(row: EstimatedRun) -> list[str]:
    e = row.estimate
    return [
        row.run.name,
        f"{e.parameters['total']:,}",
        f"{e.steps:,}",
        f"{e.flops:.3g}",
        size_of(e.memory_bytes),
        duration(e.seconds),
        size_of(e.disk_bytes),
    ]
