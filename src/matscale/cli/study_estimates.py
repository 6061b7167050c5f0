"""What a study would take, run by run and in all: `matscale sweep --dry-run` and `matscale estimate STUDY.toml`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from matscale.cli.progress.stages import Shown, Stages
from matscale.cli.text import aligned
from matscale.cli.words import duration, size_of

if TYPE_CHECKING:
    from matscale.core.study.estimates import EstimatedRun, Estimator
    from matscale.core.study.plan import Plan


def show(planned: Plan, device: str | None, mfu: float | None, time_steps: int | None, as_json: bool) -> None:
    """Estimate and print. `time_steps` None: a few for each kind of step."""
    from matscale.core.study.estimates import TIME_STEPS, Estimator, estimates, totals

    with Stages() as stages:
        estimator = Estimator(device, mfu, TIME_STEPS if time_steps is None else time_steps, Shown(stages))
        rows = estimates(planned, estimator, lambda done, of: stages("Estimates", done, of))
    left = [row for row in rows if row.status != "completed"]
    if as_json:
        found = {"runs": [row.plain() for row in rows], "total": totals(rows), "to_do": totals(left)}
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    heading = ["RUN", "PARAMETERS", "STRUCTURES", "STEPS", "FLOPS", "MEMORY", "TIME", "DISK", "STATUS"]
    table = [heading, *(_cells(row) for row in rows), ["total", "", "", "", *_sums(totals(rows)), ""]]
    click.echo(aligned(table, right=range(1, 8)))
    if 0 < len(left) < len(rows):
        flops, _, time, disk = _sums(totals(left))
        click.echo(f"{len(rows) - len(left)} of {len(rows)} runs are complete; to do: {flops} FLOPs, {time}, {disk}.")
    click.echo(_basis(rows, estimator))
    click.echo(f"Study: {planned.folder}")


def _cells(row: EstimatedRun) -> list[str]:
    e = row.estimate
    counts = [f"{n:,}" for n in (e.parameters["total"], row.run.n_train, e.steps)]
    cost = [f"{e.flops:.3g}", size_of(e.memory_bytes), duration(e.seconds), size_of(e.disk_bytes)]
    return [row.run.name, *counts, *cost, row.status]


def _sums(total: dict[str, float]) -> list[str]:
    return [f"{total['flops']:.3g}", "", duration(total["seconds"]), size_of(total["disk_bytes"])]


def _basis(rows: list[EstimatedRun], estimator: Estimator) -> str:
    """What the times rest on."""
    e, kinds = rows[0].estimate, len(estimator.prices)
    if e.seconds_by == "peak × MFU":
        return f"Time on {e.device}: {100 * e.mfu:.2g} % of {e.peak_flops_per_s:.3g} FLOP/s is assumed."
    return (
        f"Time on {e.device}, one run after the other: steps, a validation batch and a checkpoint were timed here for "
        f"{kinds} kinds of step."
    )
