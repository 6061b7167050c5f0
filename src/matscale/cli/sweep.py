"""`matscale sweep`: train all runs of a study, or resume them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matscale.cli.estimate import show
from matscale.cli.options import launcher_option, quiet_option, workers_option
from matscale.cli.progress.reporter import reporter
from matscale.cli.runs import spending
from matscale.cli.types import Amount
from matscale.core.errors import ConfigError

if TYPE_CHECKING:
    from matscale.core.study.launcher import Pool
    from matscale.core.study.plan import StudyPlan


@click.command()
@click.argument("study", type=click.Path(path_type=Path), metavar="STUDY.toml")
@launcher_option
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override any key of the study file, such as command.preset=sge.",
)
@click.option("--dry-run", is_flag=True, help="Print the grid with estimates and start nothing.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: as JSON.")
@click.option("--device", metavar="NAME", help="With --dry-run: time on another device, H100 or A100, by its peak.")
@click.option(
    "--mfu",
    type=click.FloatRange(0, 1, min_open=True),
    help="With --dry-run: assumed share of the peak, in place of timed steps.",
)
@workers_option
@click.option(
    "--no-wait",
    is_flag=True,
    help="Submit the runs that are ready and return, if the launcher's jobs can outlive the sweep.",
)
@click.option("--retry-failed", is_flag=True, help="Restart runs that failed with an error of their own, too.")
@click.option(
    "--stop-hopeless",
    is_flag=True,
    help="Stop runs that will end with a higher loss than a finished run of their size with another rate or batch. "
    "Without this option, they are only reported.",
)
@click.option(
    "--adaptive", metavar="PURPOSE", help="Train only the runs that a purpose needs: alpha=0.02, loss=5%@n=1M,d=1M, ..."
)
@click.option(
    "--next", "count", type=click.IntRange(1), metavar="K", help="With --adaptive: runs per batch.  [default: 4]"
)
@click.option("--budget", type=Amount(), help="With --adaptive: FLOPs of all runs together.")
@quiet_option
def sweep(
    study: Path,
    launcher: str,
    assignments: tuple[str, ...],
    dry_run: bool,
    workers: int | None,
    no_wait: bool,
    retry_failed: bool,
    stop_hopeless: bool,
    adaptive: str | None,
    count: int | None,
    budget: float | None,
    quiet: bool,
    **shown: Any,
) -> None:
    """Train the missing runs of the study in STUDY.toml.

    Complete runs are kept. Interrupted runs are resumed. Runs that failed for an outside reason (killed, node failure)
    are restarted, and runs that failed with an error of their own are reported. On Ctrl-C, runs save and stop. The
    study's folder has runs/, and runs.jsonl and runs.csv with a row per run.

    --adaptive trains only a part of the grid: it chooses a batch of runs, trains them, fits, and chooses again, until
    the purpose (see plan --next) is met or the budget is spent. The same command continues a sweep that was stopped.
    """
    from matscale.cli.progress.advice import Advice, advice  # start-up: torch
    from matscale.core.hosting.host import host
    from matscale.core.study.config import Study
    from matscale.core.study.launcher import EndsOne
    from matscale.core.study.ledger import row, spent
    from matscale.core.study.plan import plan
    from matscale.core.study.sweep import Sweep

    if not dry_run and any(shown.values()):
        raise ConfigError("--json, --device and --mfu work only with --dry-run: add --dry-run, or leave them out.")
    chosen = host().launcher(launcher)
    if stop_hopeless and (dry_run or no_wait):
        raise ConfigError("--stop-hopeless stops runs in progress: leave out --dry-run and --no-wait.")
    if no_wait and not chosen.outlives:
        raise ConfigError(f"The runs of the launcher {launcher} end with the sweep: leave --no-wait out.")
    if workers is not None and launcher != "local":
        raise ConfigError(
            f"--workers works only with --launcher local. Set options of {launcher} in the study file: [{launcher}]."
        )
    if adaptive is None and (count is not None or budget is not None):
        raise ConfigError("--next and --budget work only with --adaptive PURPOSE: add --adaptive, or leave them out.")
    if adaptive is not None and (budget is None or dry_run or no_wait or stop_hopeless):
        raise ConfigError(
            "--adaptive needs --budget FLOPS for all of its runs, and excludes --dry-run, --no-wait and "
            "--stop-hopeless."
        )
    read = Study.read(study, assignments)
    with reporter() as progress:
        planned = plan(read, progress, fetches=not dry_run)
    for note in planned.notes:
        click.echo(f"Note: {note}", err=True)
    if dry_run:
        show(planned, time_steps=None, **shown)
        return
    options = read.launchers.get(launcher, {}) | ({} if workers is None else {"workers": workers})
    pool = chosen.open(chosen.options.parse(options, f"{study}: {launcher}"), planned.folder)
    if adaptive is not None:
        assert budget is not None
        with closing(pool):
            _adapt(planned, pool, adaptive, count or 4, budget, quiet, retry_failed)
        return
    with closing(pool), reporter(quiet) as progress:
        if stop_hopeless and not isinstance(pool, EndsOne):
            raise ConfigError(f"The launcher {launcher} cannot stop a single run: leave --stop-hopeless out.")
        told = Advice(progress, stop_hopeless) if stop_hopeless or not quiet else progress
        given_up = {one.path: one.text for one in advice(planned.runs, {})} if stop_hopeless else {}
        job = Sweep(planned, pool, told, retry_failed=retry_failed, wait=not no_wait, given_up=given_up)
        job.run()
    if not no_wait:
        job.conclude()
    counts = ", ".join(f"{n} {status}" for status, n in sorted(job.counts().items()))
    cost = spending(spent(row(run.path) for run in planned.runs))
    for text in job.given_up.values():
        click.echo(f"given up: {text}")
    click.echo(f"{len(planned.runs)} runs: {counts}; spent: {cost}. Study: {planned.folder}")


def _adapt(
    planned: StudyPlan, pool: Pool, purpose: str, count: int, budget: float, quiet: bool, retry_failed: bool
) -> None:
    """Run an adaptive sweep: choose, train and fit batches of runs until the purpose is met or the budget is spent."""
    from matscale.core.scaling.allocation.adaptive import Adaptive, offers  # start-up: torch
    from matscale.core.scaling.allocation.next_batch import Purpose
    from matscale.core.study.estimates import Estimator, estimates
    from matscale.core.study.sweep import Sweep

    wanted = Purpose.parse(purpose)
    known = {
        row.run.path: (row.estimate.flops, row.estimate.epochs) for row in estimates(planned, Estimator(time_steps=0))
    }

    def do(part: StudyPlan) -> None:
        with reporter(quiet) as progress:
            job = Sweep(part, pool, progress, retry_failed=retry_failed)
            job.run()
        if any(job.states[run.path].status not in ("completed", "failed") for run in job.runs):
            job.conclude()

    loop = Adaptive(planned, offers(planned, known), wanted, count, budget)
    ended = loop.run(do, lambda text: click.echo(f"Next: {text}", err=True))
    click.echo(f"{ended} {len(loop.proposed())} of {len(planned.runs)} runs were proposed. Study: {planned.folder}")
