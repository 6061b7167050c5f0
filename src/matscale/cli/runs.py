"""`matscale runs`: list and show the runs in a folder or a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from matscale.cli.progress.text import pretrained
from matscale.cli.text import aligned, duration, errors_table
from matscale.core.errors import ConfigError
from matscale.core.runs.files import called
from matscale.core.scaling.text import with_interval
from matscale.core.units import by_number

STATUSES = ("planned", "running", "completed", "stopped", "crashed", "failed")
"""Statuses that follow from a run folder alone. The other two, `queued` and `blocked`, are in the ledger of a sweep."""


@click.group()
def runs() -> None:
    """Show the runs in a folder, a single run, or forecasts of final losses."""


@runs.command("list")
@click.argument("folder", type=click.Path(path_type=Path), default="runs")
@click.option(
    "--status", multiple=True, type=click.Choice(STATUSES), help="Only runs with this status; may be repeated."
)
@click.option(
    "--arch", multiple=True, metavar="NAME", help="Only runs of an architecture (gemnet) or variant (gemnet-OC)."
)
@click.option("--study", metavar="NAME", help="Only runs of a study.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list with all that is known of each run.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with the same columns.")
def list_runs(
    folder: Path, status: tuple[str, ...], arch: tuple[str, ...], study: str | None, as_json: bool, as_csv: bool
) -> None:
    """List the runs in FOLDER, a folder of runs or of a study. [default: runs]

    The status `crashed` means that a run was killed; `matscale sweep`, or `matscale train --resume`, continues it. The
    status `failed` means that a run ended with an error of its own.
    """
    from matscale.core.study import ledger  # start-up: torch

    if as_json and as_csv:
        raise ConfigError("--json and --csv exclude each other: give one of them.")
    rows = [ledger.row(path) for path in sorted(ledger.run_folders(folder), key=_in_order)]
    rows = [r for r in rows if not status or r["status"] in status]
    rows = [r for r in rows if study in (None, r["study"])]
    rows = [r for r in rows if not arch or {r["architecture"], called(r["architecture"], r["variant"])} & {*arch}]
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if as_csv:
        click.echo(ledger.as_csv(rows), nl=False)
        return
    heading = ["RUN", "STATUS", "PARAMETERS", "TRAIN", "SEED", "LR", "STEPS", "FLOPS", "LOSS"]
    click.echo(aligned([heading, *(_cells(r) for r in rows)], right=range(2, 9)))
    click.echo(f"{len(rows)} runs; spent: {spending(ledger.spent(rows))}")
    for r in rows:
        if r["status"] not in ("planned", "blocked") and r["reason"]:
            click.echo(f"{r['run']}: {r['reason']}", err=True)


def _in_order(run: Path) -> tuple[str, list[tuple[int, float, str]]]:
    return str(run.parent), by_number(run.name)


def spending(total: dict[str, float]) -> str:
    """Format the FLOPs and time that were spent: `3e+15 FLOPs, 2 h 5 min of device time`."""
    return f"{total['flops']:.3g} FLOPs, {duration(total['device_hours'] * 3600)} of device time"


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["run"],
        row["status"],
        _number(row["parameters"], ","),
        _number(row["train"], ","),
        _number(row["seed"], ""),
        _number(row["lr"], ".3g"),
        _number(row["steps"], ","),
        _number(row["flops"], ".3g"),
        _number(row["loss"], ".4g"),
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


@runs.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON: run.json and the status of the run.")
def show(run: Path, as_json: bool) -> None:
    """Show one run: its configuration, status, cost and errors."""
    from matscale.core.runs.status import read_info  # start-up: torch
    from matscale.core.study.ledger import row, run_folders

    if list(run_folders(run)) != [run]:
        raise ConfigError(f"{run}: is not a run. `matscale runs list {run}` lists the runs in a folder.")
    facts, info = row(run), read_info(run) or {}
    if as_json:
        click.echo(json.dumps({**info, "status": facts["status"], "reason": facts["reason"]}, indent=2))
        return
    known = {key: value for key, value in facts.items() if value not in (None, "")}
    if "epoch" in (info.get("last") or {}):
        known["epochs"] = float(info["last"]["epoch"])  # passes over the data; the total counts complete ones only
    click.echo(aligned([[key, _readable(value)] for key, value in known.items()]))
    rows = {which: info[which] for which in ("best", "last") if info.get(which)}
    if rows:
        click.echo("")
        if "pretrain" in info:
            click.echo("\n".join(f"{which}: {pretrained(row)}" for which, row in rows.items()))
        else:
            click.echo(errors_table(rows))


def _readable(value: Any) -> str:
    """Format a value of a run's row: 12,345, 3.26e+08 FLOPs, 0.889 epochs."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) >= 1e6 else f"{value:,.5g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@runs.command("forecast")
@click.argument("folder", type=click.Path(path_type=Path), default="runs")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def forecast_runs(folder: Path, as_json: bool) -> None:
    """Predict the final loss of runs in progress, from finished runs in FOLDER. [default: runs]

    Finished runs with the same schedule give the factor by which the loss falls between the present point of a run and
    its end. The factor is corrected for size, learning rate and batch. The interval covers 95 % of new runs.
    """
    from matscale.core.scaling.curves.running import forecasts, hopeless, read_running  # start-up: torch
    from matscale.core.study import ledger

    known = read_running(list(ledger.run_folders(folder)))
    found = forecasts(known)
    if as_json:
        values = [{"run": run.path.name, **seen.plain()} for run, seen in found]
        click.echo(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))
        return
    rows = [["RUN", "DONE", "LOSS", "AT ITS END (95 %)", "BY"]]
    for run, seen in found:
        end = seen.reason or with_interval(seen.predicted, seen.low, seen.high)
        rows.append([run.path.name, f"{seen.share:.0%}", f"{seen.loss:.4g}", end, f"{seen.n_finished} runs"])
    if found:
        click.echo(aligned(rows, right=(1, 2)))
    under_way, done = len(found), len(known) - len(found)
    click.echo(f"{under_way} runs under way or stopped, {done} finished")
    for one in hopeless(known):
        click.echo(f"hopeless {one.text}")
