"""`matscale fit` and `compare`: fit laws with verdicts, and test whether their exponents differ."""

from __future__ import annotations

import json

import click

from matscale.cli.laws.options import Input, input_options, only, sampled
from matscale.cli.types import Amount, ArchitectureName


@click.command()
@input_options
@click.option(
    "--law",
    default="auto",
    show_default=True,
    help="n, d or c: the best form in this variable; nd, frontier or isoflop; mixed: one exponent for all "
    "architectures and an offset for each; or a form: power, floor, broken, kaplan, repetition, overfitting (many "
    "epochs), routing, a plugin's.",
)
@click.option("--pool", is_flag=True, help="Fit one law to all architectures, and show how far each is from it.")
@click.option(
    "--arch", "architectures", multiple=True, type=ArchitectureName, help="Architectures to fit.  [default: all]"
)
@click.option(
    "--axis", type=click.Choice(["n", "d", "c"]), help="Variable of a form.  [default: the one with the most sizes]"
)
@click.option("--at", type=Amount(), help="Value of the other variable.  [default: the one with the most sizes]")
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
    incomplete design, not identifiable, no learning. If no law is claimed, the output states what can still be said.
    Runs that are left out are listed with the reason.
    """
    from matscale.cli.laws.text import checklist_text, fit_text  # start-up: scipy
    from matscale.core.scaling.checklist import checklist as fill
    from matscale.core.scaling.curves.collapse import collapses
    from matscale.core.scaling.fit import Options, fit_all, needs_curves

    curves = checklist or needs_curves(law, checkpoint)
    table = given.table(curves, lists_excluded=True)
    table = only(table, architectures)
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
@click.option(
    "--arch", "architectures", multiple=True, type=ArchitectureName, help="Architectures to compare.  [default: all]"
)
@click.option(
    "--axis", type=click.Choice(["n", "d", "c"]), help="Variable of the laws.  [default: compute, else parameters]"
)
@click.option("--at", type=Amount(), help="Value of the other variable.  [default: the one with the most sizes]")
@click.option("--at-loss", type=float, multiple=True, help="Loss at which the multipliers are stated; may be repeated.")
@click.option("--margin", type=float, help="Test whether exponents are equal within this difference: 0.02.")
def compare(
    given: Input,
    architectures: tuple[str, ...],
    axis: str | None,
    at: float | None,
    at_loss: tuple[float, ...],
    margin: float | None,
) -> None:
    """Compare how architectures scale, and how much each needs for the same loss.

    The first results are multipliers: how many times as many FLOPs, hours, parameters or data one architecture needs as
    another. Then Welch's test on the means of each size tells whether the exponents differ. The output also has the
    ratio of the losses, the crossing of the laws, the power of the test, and the runs that would settle the question. A
    test that shows no difference does not prove that the exponents are equal: --margin tests equality.
    """
    from matscale.cli.laws.text import comparison_text  # start-up: scipy
    from matscale.core.hosting.host import host
    from matscale.core.scaling.comparison.compare import compare as test

    table = given.table()
    laws = [law for law in host().laws() if law.axes == ("x",)]
    result = test(table, architectures, laws, axis=axis, target=given.target, at=at, at_loss=at_loss, margin=margin)
    if given.as_json:
        click.echo(json.dumps(result.plain(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        click.echo(comparison_text(result))
