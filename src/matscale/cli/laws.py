"""`matscale fit`, `compare`, `plan`: laws with verdicts, tests and allocations, from runs or a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from matscale.cli.types import Amount, ArchitectureName, ParamType
from matscale.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from matscale.core.scaling.allocation.speed import Speed
    from matscale.core.scaling.fit import Options
    from matscale.core.scaling.tables.table import Table

F = TypeVar("F", bound=Callable[..., Any])


class Pairs(ParamType):
    """Pairs of values: `a=b,c=d`."""

    name = "key=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        if isinstance(value, dict):
            return value
        found = {}
        for part in str(value).split(","):
            key, equals, text = part.partition("=")
            if not (key.strip() and equals and text.strip()):
                self.fail(f"{part!r} is no pair. Write for example n=params,loss=val_loss.", param, ctx)
            found[key.strip()] = text.strip()
        return found


BASELINES = (
    click.option(
        "--baselines",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="JSON of `matscale baselines`.  [default: measured for runs]",
    ),
    click.option("--no-baselines", is_flag=True, help="Judge without baselines."),
)
SAMPLES = click.option(
    "--samples", type=click.IntRange(50, 100_000), default=1000, show_default=True, help="Bootstrap samples."
)


@dataclass(frozen=True)
class Input:
    """Values of the options that the three commands share: runs or tables, columns, target and baselines."""

    sources: tuple[str, ...]
    columns: tuple[dict[str, str], ...]
    where: tuple[dict[str, str], ...]
    target: str
    baselines: Path | None
    no_baselines: bool
    as_json: bool

    def table(self, curves: bool = False, lists_excluded: bool = False) -> Table:
        """Read the table; print to stderr how it was read and, unless the command lists it, what was left out."""
        from matscale.cli.laws_text import excluded_text
        from matscale.core.scaling.tables.baselines import read_baselines, with_baselines
        from matscale.core.scaling.tables.sources import read

        merged = {key: value for pairs in self.columns for key, value in pairs.items()}
        chosen = {key: value for pairs in self.where for key, value in pairs.items()}
        table = read(list(self.sources), merged, target=self.target, where=chosen, curves=curves)
        for sentence in table.notes:
            click.echo(sentence, err=True)
        if not lists_excluded and table.excluded:
            click.echo("\n".join(excluded_text(table.excluded)), err=True)
        if self.baselines is not None:
            return replace(table, baselines=read_baselines(self.baselines))
        if self.no_baselines:
            return table
        table, why = with_baselines(table)
        if why:
            click.echo(f"{why[0].upper()}{why[1:]}", err=True)
        return table


def input_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `Input`, which the command gets as its first argument."""

    @wraps(command)
    def with_input(**values: Any) -> None:
        command(Input(**{field.name: values.pop(field.name) for field in fields(Input)}), **values)

    return _with_options(
        with_input,
        click.argument("sources", nargs=-1, required=True, metavar="RUNS|TABLE..."),
        click.option(
            "--map",
            "columns",
            type=Pairs(),
            multiple=True,
            help="Columns by our names: n=params,d=tokens,c=flops,loss=val_loss; also arch, seed, run, step, u, s, e. "
            "Of runs: n=total, d=structures|atoms|edges, c=gpu_hours.",
        ),
        click.option("--where", type=Pairs(), multiple=True, help="Rows of a table to use: router_type=Dense."),
        click.option(
            "--target",
            default="loss",
            show_default=True,
            help="What is fitted: loss, energy, forces, stress, or a column.",
        ),
        *BASELINES,
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    )


def _with_options(command: F, *options: Callable[[F], F]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def sampled(command: F) -> F:
    """Add the options of the bootstrap and of the table that it resamples."""
    return _with_options(
        command,
        click.option(
            "--checkpoint",
            type=click.Choice(["last", "best", "all"]),
            default="last",
            show_default=True,
            help="Which step of a run counts in joint laws.",
        ),
        SAMPLES,
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the bootstrap."),
    )


@click.command()
@input_options
@click.option(
    "--law",
    default="auto",
    show_default=True,
    help="n, d, c: the best form in that variable; nd, frontier, isoflop; mixed: one exponent for all "
    "architectures and an offset of each; or a form: power, floor, broken, kaplan, repetition, overfitting (many "
    "epochs), routing, a plugin's.",
)
@click.option("--pool", is_flag=True, help="One law over all architectures, and how far each is off it.")
@click.option("--arch", "architectures", multiple=True, type=ArchitectureName, help="Only these.  [default: all]")
@click.option("--axis", type=click.Choice(["n", "d", "c"]), help="Variable of a form.  [default: with most sizes]")
@click.option("--at", type=Amount(), help="Value of the other variable.  [default: that with most sizes]")
@sampled
@click.option("--checklist", is_flag=True, help="Fill in the checklist of the survey (Mis)Fitting for every law.")
def fit(
    given: Input,
    law: str,
    pool: bool,
    architectures: tuple[str, ...],
    axis: str | None,
    at: float | None,
    checkpoint: str,
    samples: int,
    seed: int,
    checklist: bool,
) -> None:
    """Fit scaling laws to RUNS (folders, globs, a study) or a TABLE (CSV, JSON lines, parquet).

    Each law has intervals, a test on the largest sizes, and a verdict: law (with floor, broken), local slope, rejected,
    incomplete design, not identifiable, no learning. A refused law says what can still be said. What was left out, and
    why, is listed.
    """
    from matscale.cli.laws_text import checklist_text, fit_text
    from matscale.core.scaling.checklist import checklist as fill
    from matscale.core.scaling.curves.collapse import collapses
    from matscale.core.scaling.fit import Options, fit_all, needs_curves

    curves = checklist or needs_curves(law, checkpoint)
    table = given.table(curves, lists_excluded=True)
    table = _only(table, architectures)
    checked = collapses(table)
    for name, curves_of in checked.items():
        if curves_of.off:
            click.echo(f"Curves{f' of {name}' if name else ''}: {curves_of.text}.", err=True)
    options = Options(given.target, axis, at, checkpoint, samples, seed, pool)
    refused: list[str] = []
    fits = fit_all(table, law, options, refused)
    for sentence in refused:
        click.echo(f"Not fitted: {sentence}", err=True)
    if given.as_json:
        values = [
            {**one.plain(), **({"checklist": fill(one, checked.get(one.architecture))} if checklist else {})}
            for one in fits
        ]
        click.echo(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))
        return
    for k, one in enumerate(fits):
        click.echo(("\n" if k else "") + fit_text(one))
        if checklist:
            click.echo(checklist_text(fill(one, checked.get(one.architecture))))


@click.command()
@input_options
@click.option("--arch", "architectures", multiple=True, type=ArchitectureName, help="Which to compare.  [default: all]")
@click.option(
    "--axis", type=click.Choice(["n", "d", "c"]), help="Over which variable.  [default: compute, else parameters]"
)
@click.option("--at", type=Amount(), help="Value of the other variable.  [default: that with most sizes]")
@click.option(
    "--at-loss", type=float, multiple=True, help="Loss at which the multipliers are stated; may be said several times."
)
@click.option("--margin", type=float, help="Test whether exponents are equal within this difference: 0.02.")
def compare(
    given: Input,
    architectures: tuple[str, ...],
    axis: str | None,
    at: float | None,
    at_loss: tuple[float, ...],
    margin: float | None,
) -> None:
    """Compare how architectures scale, and what each needs for the same loss.

    First the FLOPs, hours, parameters or data that one needs of the other's. Then whether the exponents differ, by
    Welch's test on size means; the ratio of the losses, where the laws cross, what the test could have seen, and what
    would settle it. No difference shown does not mean equal: --margin tests that.
    """
    from matscale.cli.laws_text import comparison_text
    from matscale.core.hosting.host import host
    from matscale.core.scaling.comparison.compare import compare as test

    table = given.table()
    laws = [law for law in host().laws() if law.axes == ("x",)]
    result = test(table, architectures, laws, axis=axis, target=given.target, at=at, at_loss=at_loss, margin=margin)
    if given.as_json:
        click.echo(json.dumps(result.plain(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        click.echo(comparison_text(result))


@click.command()
@input_options
@click.option("--arch", "architectures", multiple=True, type=ArchitectureName, help="Which.  [default: the only one]")
@click.option("--flops", type=Amount(), help="Budget of training FLOPs: 1e18, 50P.")
@click.option("--loss", type=float, help="Loss to reach, instead of a budget.")
@click.option("--device", help="Device whose hours are stated: H100, A100, ..., or one that runs were made on.")
@click.option("--precision", help="Arithmetic on it.  [default: that of the runs on it; of its peak: fp32]")
@click.option(
    "--mfu",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of its peak.  [default: what runs on it reached; without any, 0.05 is assumed]",
)
@click.option(
    "--despite",
    type=click.Choice(["rejected", "incomplete-design", "not-identifiable"]),
    help="Plan by a joint law of this verdict too, with its uncertainty widened by what it misses.",
)
@click.option(
    "--next", "count", type=click.IntRange(1, 1000), metavar="K", help="Choose the next K runs --for a purpose."
)
@click.option("--for", "purpose", help="With --next: alpha=0.02 (or beta), loss=5%@n=1M,d=1M, or cheaper@loss=1.5.")
@click.option(
    "--budget", type=Amount(), help="With --next: FLOPs of all K. With --simulate: cost of all that is bought."
)
@click.option(
    "--simulate", "is_replay", is_flag=True, help="Replay the table: what a choice of runs would have been worth."
)
@click.option("--law", help="With --simulate: the law of several variables.  [default: nd]")
@click.option("--cost", metavar="COLUMNS", help="With --simulate: a run costs the product of these: n,d.")
@click.option(
    "--held-out", type=click.Path(exists=True), help="With --simulate: table to predict.  [default: the dearest runs]"
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
    """Say which size on how much data makes the best of a budget, or what a loss takes, or what to run next.

    By the joint law and the measured cost of the runs. Without a joint law there is no plan, but what can still be said
    and the runs that would tell most; --despite plans by a refused law with a wider uncertainty.

    --next K --budget FLOPS --for PURPOSE chooses runs until the purpose is met. --simulate replays a table: it buys
    runs in turn, and scores the prediction of the dearest ones beside random, grid and cost-ordered choice.
    """
    from matscale.cli import plan_ahead
    from matscale.cli.laws_text import plan_text
    from matscale.core.scaling.allocation.plan import make_plan
    from matscale.core.scaling.fit import Options, needs_curves
    from matscale.core.scaling.text import listed

    plan_ahead.refuse_unused(click.get_current_context().params)
    curves = needs_curves("nd", checkpoint)
    if is_replay:
        # Rows of two tables are read alike, and baselines play no part.
        bare = replace(given, no_baselines=True)
        far = replace(bare, sources=(held_out,)).table(curves) if held_out else None
        plan_ahead.simulate(
            _only(bare.table(curves), architectures), far, law or "nd", cost, budget, page, given.as_json
        )
        return
    table = _only(given.table(curves), architectures)
    if count is not None:
        assert purpose is not None
        assert budget is not None
        plan_ahead.choose_next(table, purpose, count, budget, given.as_json)
        return
    if len(table.architectures) != 1:
        named = listed([f"--arch {name}" for name in table.architectures], by=" or ")
        raise ConfigError(f"Plan for one architecture at a time: {named}.")
    fitted = _joint(table, Options(target=given.target, checkpoint=checkpoint, samples=samples, seed=seed))
    speed = _speed(device, fitted.table, precision, mfu)
    result = make_plan(fitted, flops=flops, loss=loss, speed=speed, despite=(despite or "").replace("-", " "))
    if given.as_json:
        values = {"fit": fitted.plain(), **result.plain()}
        click.echo(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        click.echo(plan_text(result, fitted))


def _joint(table: Table, options: Options) -> Any:
    from matscale.core.scaling.fit import fit_law

    return fit_law(table, "nd", options)


def _speed(
    device: str | None, table: Table, precision: str | None, mfu: float | None
) -> Callable[[float], Speed] | None:
    """Speed of a model on the device, as a function of its parameters; refuses options that need a device."""
    from matscale.core.scaling.allocation.speed import speed_on

    if device is None:
        if precision or mfu:
            raise ConfigError("--precision and --mfu say how fast a device is: name it with --device.")
        return None
    return lambda n: speed_on(device, table, n, precision, mfu)


def _only(table: Table, architectures: tuple[str, ...]) -> Table:
    import numpy as np

    from matscale.core.errors import did_you_mean

    if len(table) == 0:
        listed = "; ".join(f"{one.row}: {one.reason}" for one in table.excluded[:5])
        more = f"; and {len(table.excluded) - 5} more" if len(table.excluded) > 5 else ""
        raise DataError(f"No run is left to fit. Left out: {listed}{more}.")
    for name in architectures:
        if name not in table.architectures:
            raise ConfigError(f"There are no runs of {name!r}. {did_you_mean(name, table.architectures)}")
    return table.take(np.isin(table.words["arch"], architectures)) if architectures else table
