"""`matscale sweep`: the grid of runs of a study, planned, done, taken up again."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matscale.cli.types import PluginName
from matscale.core.errors import ConfigError

if TYPE_CHECKING:
    from matscale.core.study.forecast import Forecaster
    from matscale.core.study.plan import Plan


@click.command()
@click.argument("study", type=click.Path(path_type=Path), metavar="STUDY.toml")
@click.option(
    "--launcher",
    type=PluginName("register_launchers", "launcher"),
    default="local",
    show_default=True,
    help="What starts the runs: local, slurm, or one that a plugin supplies.",
)
@click.option("--dry-run", is_flag=True, help="Print the grid with estimates and start nothing.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: as JSON.")
@click.option("--device", metavar="NAME", help="With --dry-run: time on another device, H100 or A100, by its peak.")
@click.option(
    "--mfu", type=click.FloatRange(0, 1, min_open=True), help="With --dry-run: the share of the peak it reaches."
)
@click.option("--workers", type=click.IntRange(1), help="Runs at once, with the launcher local.")
@click.option("--no-wait", is_flag=True, help="Hand over what is ready and leave, with a launcher whose jobs live on.")
@click.option("--retry-failed", is_flag=True, help="Take up again also runs that failed for a reason of their own.")
@click.option("--quiet", "-q", is_flag=True, help="No progress, only results and errors.")
def sweep(
    study: Path,
    launcher: str,
    dry_run: bool,
    as_json: bool,
    device: str | None,
    mfu: float | None,
    workers: int | None,
    no_wait: bool,
    retry_failed: bool,
    quiet: bool,
) -> None:
    """Do what is missing of the study in STUDY.toml.

    Each run has an identity: what is complete is left alone, what was cut off goes on, what failed for an outside
    reason (killed, node failure) is tried again, what failed for one of its own is told. Ctrl-C has the runs save.
    The study's folder holds runs/, and runs.jsonl and runs.csv with a row per run.
    """
    from matscale.cli.stages import Stages
    from matscale.cli.sweep_progress import watcher_for
    from matscale.core.manager import host
    from matscale.core.study.config import Study
    from matscale.core.study.forecast import Forecaster
    from matscale.core.study.plan import plan
    from matscale.core.study.sweep import Sweep

    if not dry_run and (as_json or device or mfu):
        raise ConfigError("--json, --device and --mfu are about estimates: add --dry-run, or leave them out.")
    chosen = host().launcher(launcher)
    if no_wait and not chosen.outlives:
        raise ConfigError(f"--no-wait: the runs of the launcher {launcher} end with the sweep. Leave it out.")
    if workers is not None and launcher != "local":
        raise ConfigError(
            f"--workers is for the launcher local. The study file has a table [{launcher}] for its options."
        )
    read = Study.read(study)
    with Stages() as stages:
        planned = plan(read, stages)
    for note in planned.notes:
        click.echo(f"Note: {note}", err=True)
    if dry_run:
        _show(planned, Forecaster(device, mfu), as_json)
        return
    options = read.launchers.get(launcher, {}) | ({} if workers is None else {"workers": workers})
    pool = chosen.open(chosen.options.parse(options, f"{study}: {launcher}"), planned.folder)
    with closing(pool), watcher_for(quiet, planned) as watcher:
        job = Sweep(planned, pool, watcher, retry_failed=retry_failed, wait=not no_wait)
        job.run()
    if not no_wait:
        job.conclude()
    counts = ", ".join(f"{n} {status}" for status, n in sorted(job.counts().items()))
    click.echo(f"{len(planned.runs)} runs: {counts}. Study: {planned.folder}")


def _show(planned: Plan, forecaster: Forecaster, as_json: bool) -> None:
    from matscale.cli.stages import Stages
    from matscale.cli.table import aligned
    from matscale.core.study.forecast import forecast

    with Stages() as stages:
        rows = forecast(planned.runs, forecaster, stages)
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    heading = ["RUN", "PARAMETERS", "STRUCTURES", "STEPS", "FLOPS", "MEMORY", "TIME", "STATUS"]
    click.echo(aligned([heading, *(_cells(row) for row in rows)], right=range(1, 7)))
    click.echo(f"{_total(rows)}. Study: {planned.folder}")


def _cells(row: dict[str, Any]) -> list[str]:
    from matscale.cli.train_progress import duration

    counts = [f"{row[key]:,}" for key in ("parameters", "train", "steps")]
    cost = [f"{row['flops']:.3g}", f"{row['memory_bytes'] / 2**20:,.0f} MiB", duration(row["seconds"])]
    return [row["run"], *counts, *cost, row["status"]]


def _total(rows: list[dict[str, Any]]) -> str:
    """What is shared with a trunk is counted with the trunk alone; what is complete needs nothing more."""
    left = [row for row in rows if row["status"] != "completed"]
    flops, seconds = (sum(row[key] - row[f"{key}_shared"] for row in left) for key in ("flops", "seconds"))
    disk = sum(row["disk_bytes"] for row in left)
    done = f", {len(rows) - len(left)} of them complete" if len(left) < len(rows) else ""
    on = f" on {left[0]['device']}" if left else ""
    return (
        f"{len(rows)} runs{done}; to do: {flops:.3g} FLOPs, {seconds / 3600:.3g} device-hours{on}, "
        f"{disk / 1e9:.3g} GB of disk"
    )
