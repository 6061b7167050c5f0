"""`matscale plan`: plan a training for a budget or a loss, choose the next runs, or test such choices on a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matscale.cli.laws.options import Input, input_options, only, sampled
from matscale.cli.text import aligned
from matscale.cli.types import Amount, ArchitectureName
from matscale.core.errors import ConfigError, DataError, did_you_mean
from matscale.core.files import write_text
from matscale.core.scaling.text import listed, size

if TYPE_CHECKING:
    from matscale.core.scaling.allocation.next_batch import Batch
    from matscale.core.scaling.allocation.simulate import Score
    from matscale.core.scaling.allocation.speed import Speed
    from matscale.core.scaling.tables.table import Table


@click.command()
@input_options
@click.option(
    "--arch", "architectures", multiple=True, type=ArchitectureName, help="Architecture.  [default: the only one]"
)
@click.option("--flops", type=Amount(), help="Budget of training FLOPs: 1e18, 50P.")
@click.option("--loss", type=float, help="Loss to reach, instead of a budget.")
@click.option("--device", help="Device for which hours are stated: H100, A100, ..., or a device of the runs.")
@click.option("--precision", help="Precision on it.  [default: that of the runs on it; without such runs, fp32]")
@click.option(
    "--mfu",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the device's peak.  [default: the share that runs on it reached; without runs on it, 0.05]",
)
@click.option(
    "--despite",
    type=click.Choice(["rejected", "incomplete-design", "not-identifiable"]),
    help="Accept a joint law with this verdict, too; its uncertainty is then widened by its misfit.",
)
@click.option(
    "--next", "count", type=click.IntRange(1, 1000), metavar="K", help="Choose the next K runs --for a purpose."
)
@click.option("--for", "purpose", help="With --next: alpha=0.02 (or beta), loss=5%@n=1M,d=1M, or cheaper@loss=1.5.")
@click.option(
    "--budget",
    type=Amount(),
    help="With --next: FLOPs of all K runs. With --simulate: cost of all runs that are bought.",
)
@click.option("--simulate", "is_replay", is_flag=True, help="Replay the table, to test strategies that choose runs.")
@click.option("--law", help="With --next and --simulate: the law of several variables.  [default: nd]")
@click.option("--cost", metavar="COLUMNS", help="With --simulate: columns whose product is the cost of a run: n,d.")
@click.option(
    "--held-out",
    type=click.Path(exists=True),
    help="With --simulate: table to predict.  [default: the most expensive runs]",
)
@click.option(
    "-o",
    "--output",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --simulate: HTML page of curves.",
)
@sampled
def plan(
    given: Input,
    architectures: tuple[str, ...],
    flops: float | None,
    loss: float | None,
    device: str | None,
    precision: str | None,
    mfu: float | None,
    despite: str | None,
    count: int | None,
    purpose: str | None,
    budget: float | None,
    is_replay: bool,
    law: str | None,
    cost: str | None,
    held_out: str | None,
    page: Path | None,
    checkpoint: str,
    samples: int,
    seed: int,
) -> None:
    """Plan model size and data for the lowest loss at a budget or the lowest cost of a loss, or choose the next runs.

    A plan follows from the joint law and the measured cost of the runs. Without a joint law there is no plan: the
    command states what can still be said, and which runs would help most. --despite plans by a refused law, with a
    wider uncertainty.

    --next K --budget FLOPS --for PURPOSE chooses the next K runs for a purpose. --simulate replays a table: it chooses
    and buys runs in turn, predicts the most expensive ones, and compares the errors with those of three other
    strategies: a random choice, a grid, and a choice in the order of cost.
    """
    from matscale.cli.laws.text import plan_text  # start-up: scipy
    from matscale.core.scaling.allocation.plan import make_plan
    from matscale.core.scaling.fit import Options, fit_law, needs_curves

    refuse_unused(click.get_current_context().params)
    curves = needs_curves("nd", checkpoint)
    if is_replay:
        # Rows of two tables are read alike, and baselines play no part.
        bare = replace(given, no_baselines=True)
        far = replace(bare, sources=(held_out,)).table(curves) if held_out else None
        simulate(only(bare.table(curves), architectures), far, law or "nd", cost, budget, page, given.as_json)
        return
    table = only(given.table(curves), architectures)
    if count is not None:
        assert purpose is not None
        assert budget is not None
        choose_next(table, purpose, count, budget, law or "nd", given.as_json)
        return
    if len(table.architectures) != 1:
        named = listed([f"--arch {name}" for name in table.architectures], by=" or ")
        raise ConfigError(f"A plan is made for one architecture. Choose one: {named}.")
    fitted = fit_law(table, "nd", Options(target=given.target, checkpoint=checkpoint, samples=samples, seed=seed))
    speed = _speed(device, fitted.table, precision, mfu)
    result = make_plan(fitted, flops=flops, loss=loss, speed=speed, despite=(despite or "").replace("-", " "))
    if given.as_json:
        values = {"fit": fitted.plain(), **result.plain()}
        click.echo(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        click.echo(plan_text(result, fitted))


def _speed(
    device: str | None, table: Table, precision: str | None, mfu: float | None
) -> Callable[[float], Speed] | None:
    """Function that gives the training speed on the device for a number of parameters; None without a device.

    Raises ConfigError for an option that needs a device, if there is none.
    """
    from matscale.core.scaling.allocation.speed import speed_on  # start-up: numpy

    if device is None:
        if precision or mfu:
            raise ConfigError("--precision and --mfu describe the speed of a device: name the device with --device.")
        return None
    return lambda n: speed_on(device, table, n, precision, mfu)


USED = {
    "is_replay": {"budget", "law", "cost", "held_out", "page"},
    "count": {"budget", "purpose", "law"},
    "": {"flops", "loss", "device", "precision", "mfu", "despite"},
}
"""Options that have an effect, by the option that chooses the task; `""` stands for a plan for --flops or --loss."""
NAMES = {"is_replay": "--simulate", "count": "--next", "purpose": "--for", "page": "--output", "held_out": "--held-out"}


def refuse_unused(given: Mapping[str, Any]) -> None:
    """Raises ConfigError if an option of `plan` is missing or has no effect."""
    ways = [way for way in ("is_replay", "count") if given[way] not in (None, False)]
    if len(ways) > 1:
        raise ConfigError("--simulate replays a table, --next chooses new runs: give one of them.")
    way = ways[0] if ways else ""
    for name in {name for used in USED.values() for name in used} - USED[way]:
        if given[name] is not None:
            said = NAMES[way] if way else "a plan for --flops or --loss"
            raise ConfigError(f"{NAMES.get(name, f'--{name}')} has no effect with {said}. Leave it out.")
    if way == "" and (given["flops"] is None) == (given["loss"] is None):
        raise ConfigError(
            "Say what to plan: give either --flops BUDGET or --loss TARGET, or else --next or --simulate."
        )
    if way == "count" and (given["purpose"] is None or given["budget"] is None):
        raise ConfigError(f"--next needs --budget FLOPS for all of its runs, and --for PURPOSE. {PURPOSES}")


PURPOSES = "Purposes: alpha=0.02 (or beta), loss=5%@n=1M,d=1M, cheaper@loss=1.5."


def choose_next(table: Table, purpose: str, count: int, budget: float, law: str, as_json: bool) -> None:
    """Choose the next runs for a purpose, and print them with the present uncertainty of the wanted number."""
    from matscale.core.hosting.host import host  # start-up: scipy
    from matscale.core.scaling.allocation.next_batch import Purpose, next_batch, side_of

    wanted, form = Purpose.parse(purpose), host().law(law)
    sides = [side_of(table.of_architecture(name), law=form) for name in table.architectures]
    batch = next_batch(sides, wanted, count, budget)
    click.echo(json.dumps(batch.plain(), indent=2, allow_nan=False) if as_json else batch_text(batch))


def batch_text(batch: Batch) -> str:
    """Format the present uncertainty of the wanted number, and for each next run the uncertainty after it."""
    if batch.is_met:
        return f"{batch.text}\nThe purpose is met: no run is needed."
    rows = [["", "n", "d", "FLOPs", "then ±"]]
    rows += [
        [run.architecture, size(run.n), size(run.d), f"{run.flops:.3g}", f"{run.leaves:.2g}"] for run in batch.runs
    ]
    total = sum(run.flops for run in batch.runs)
    unit = "" if batch.purpose.what in ("alpha", "beta") else " in ln"
    lines = [batch.text, f"now ±{batch.half:.2g}{unit}; next, for {total:.3g} FLOPs:", aligned(rows, (1, 2, 3, 4))]
    return "\n".join([*lines, "Train these runs, then ask again: their losses decide which runs come next."])


def simulate(
    table: Table, far: Table | None, law: str, cost: str | None, budget: float | None, page: Path | None, as_json: bool
) -> None:
    """Replay a table to test choices of runs, and print the scores; the runs of `far` are held out.

    Without `far`, the most expensive runs of the table are held out.
    """
    from matscale.core.hosting.host import host  # start-up: scipy
    from matscale.core.report.replay_figure import figure
    from matscale.core.scaling.allocation.simulate import pool_of
    from matscale.core.scaling.allocation.simulate import simulate as replay

    form = host().law(law)
    pool = pool_of(with_cost(table, cost), form, None if far is None else with_cost(far, cost))
    scores = replay(pool, form, budget)
    if page is not None:
        write_text(page, figure(f"Replay by the law {law}", scores))
    if as_json:
        click.echo(json.dumps([score.plain() for score in scores], indent=2, allow_nan=False))
    else:
        click.echo(f"{len(pool.y)} runs to choose from, {len(pool.far_y)} held out, by the law {form.formula}")
        click.echo(scores_text(scores, float(pool.cost.sum())))


def scores_text(scores: Sequence[Score], everything: float) -> str:
    """Format the scores of a replay: a row for each strategy and budget, with means over the seeds."""
    rows = [["way", "spent", "of all", "runs", "R2", "error", "in 95 %"]]
    for way in dict.fromkeys(score.way for score in scores):
        by_seed: dict[int, list[Score]] = {}
        for score in scores:
            if score.way == way:
                by_seed.setdefault(score.seed, []).append(score)
        for stop in zip(*by_seed.values()):
            spent, runs, r2, error, covered = (
                sum(getattr(score, name) for score in stop) / len(stop)
                for name in ("spent", "n_runs", "r2", "error", "covered")
            )
            share = f"{spent / everything:.1%}"
            rows.append([way, f"{spent:.3g}", share, f"{runs:.0f}", f"{r2:.2f}", f"{error:.2%}", f"{covered:.0%}"])
    return aligned(rows, right=range(1, len(rows[0])))


def with_cost(table: Table, factors: str | None) -> Table:
    """Set the column c to the product of the columns named in `factors`, such as `n,d`; unchanged for None."""
    import numpy as np  # start-up: numpy

    if factors is None:
        return table
    if table.has("c"):
        raise ConfigError(f"--cost {factors}: the runs already have a cost c. Leave --cost out.")
    product = np.ones(len(table))
    for name in (part.strip() for part in factors.split(",")):
        if name not in table.numbers:
            known = [column for column, values in table.numbers.items() if np.isfinite(values).all()]
            raise ConfigError(f"--cost {factors}: there is no column {name!r}. {did_you_mean(name, known)}")
        product = product * table[name]
    if not (np.isfinite(product).all() and (product > 0).all()):
        raise DataError(
            f"--cost {factors}: in some rows the product is missing, infinite or not above 0. Choose other columns."
        )
    return replace(table, numbers={**table.numbers, "c": product})
