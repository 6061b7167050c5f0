"""`matscale tune`: tune learning rate and batch size at a few small sizes, and fit a law to the best values."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from matscale.cli.options import launcher_option, quiet_option, workers_option
from matscale.cli.progress.reporter import reporter
from matscale.cli.text import aligned
from matscale.cli.types import ArchitectureName, CommaSeparated, Pairs, ParameterCount
from matscale.core.errors import ConfigError

if TYPE_CHECKING:
    from matscale.core.scaling.dials.tuned_law import Dials
    from matscale.core.study.plan import StudyPlan
    from matscale.core.study.tune import Tuned, Tuning


@click.command()
@click.argument("sources", nargs=-1, metavar="[RUNS|TABLE...]")
@click.option("--arch", type=ArchitectureName, help="Architecture: `matscale models list`.")
@click.option("--params", type=CommaSeparated(ParameterCount()), help="Sizes to tune: 3k,10k,30k.")
@click.option("--data", default="emt", show_default=True, help="Packed dataset: a path or a name.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="TOML file for the law.")
@click.option(
    "--from", "lowest", type=float, default=3e-4, show_default=True, help="Lowest learning rate of the first grid."
)
@click.option(
    "--to", "highest", type=float, default=2e-2, show_default=True, help="Highest learning rate of the first grid."
)
@click.option(
    "--batch", type=CommaSeparated(click.IntRange(1)), help="Batch sizes to choose from, in structures: 8,16,32."
)
@click.option("--seeds", type=CommaSeparated(click.IntRange(0)), default="0", show_default=True, help="Seeds: 0,1,2.")
@click.option(
    "--epochs",
    type=CommaSeparated(click.IntRange(1)),
    help="Passes over the data in each run; several, such as 4,8,16, for a law in the data seen too.  [default: 10, if "
    "--steps is not given]",
)
@click.option("--steps", type=click.IntRange(1), help="Length of each run in optimizer steps.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Set any key of the configuration.")
@click.option(
    "--map",
    "columns",
    type=Pairs(),
    multiple=True,
    help="Columns of a TABLE: n=params,d=tokens,loss=val_loss,lr=lr,batch=bsz.",
)
@launcher_option
@workers_option
@quiet_option
@click.pass_context
def tune(
    ctx: click.Context,
    sources: tuple[str, ...],
    arch: str | None,
    params: tuple[int, ...] | None,
    data: str,
    output: Path,
    lowest: float,
    highest: float,
    batch: tuple[int, ...] | None,
    seeds: tuple[int, ...],
    epochs: tuple[int, ...] | None,
    steps: int | None,
    assignments: tuple[str, ...],
    columns: tuple[dict[str, str], ...],
    launcher: str,
    workers: int | None,
    quiet: bool,
) -> None:
    """Find the best learning rate of a few small sizes, and write the law LR(N) = a N^b that is fitted to them.

    With several --epochs, the law is LR(N, D), where D is the number of structures seen. With several --batch as well,
    there is also a law of the batch size. A study uses the law with `lr = "lr.toml"`. The runs are kept in
    studies/tune-ARCH-DATA-HASH, one folder for each architecture and dataset, so that the same command trains only
    missing runs. With RUNS or a TABLE of learning rates that were tried already, nothing is trained.
    """
    from matscale.core.config import override  # start-up: torch
    from matscale.core.scaling.dials.trials import read_trials
    from matscale.core.scaling.dials.tuned_law import of_trials, of_tuned
    from matscale.core.study.lr_law import write_lr_law
    from matscale.core.study.tune import Tuning, default_output

    if sources:
        _refuse_training(ctx)
        merged = {key: value for pairs in columns for key, value in pairs.items()}
        name, trials = read_trials(sources, merged, arch)
        found = of_trials(trials)
        write_lr_law(output, name, found.lr_law)
        click.echo("\n".join([*found.told, f"Law of the learning rate of {name}: {output}"]))
        return
    if arch is None or not params or columns:
        raise ConfigError(
            "Give --arch and --params to train models, or RUNS or a TABLE (with --map) that were trained already."
        )
    if epochs and steps:
        raise ConfigError("--epochs and --steps both set the length of a run: give one of them.")
    if batch and steps:
        raise ConfigError("--batch: batch sizes are compared at equal data. Set the length by --epochs, not --steps.")
    if workers is not None and launcher != "local":
        raise ConfigError("--workers works only with --launcher local.")
    base = {"data": {"path": data}, "seeds": list(seeds)}
    tunings = [
        Tuning(arch, params, lowest, highest, batch or (), {**base, "set": override({}, assignments), "budget": budget})
        for budget in ([{"steps": steps}] if steps else [{"epochs": length} for length in epochs or (10,)])
    ]
    with reporter(quiet) as progress:
        folder = default_output(arch, data, progress)
    results = _trained([tuning.within(folder) for tuning in tunings], folder, launcher, workers, quiet)
    found = of_tuned(results)
    write_lr_law(output, arch, found.lr_law)
    click.echo(_table(results))
    if len(tunings) > 1:
        click.echo("\n".join([*found.told, f"Law of the learning rate of {arch}: {output}"]))
    else:
        click.echo(_sentence(found, output))


def _refuse_training(ctx: click.Context) -> None:
    """Raises ConfigError if options of training are given with RUNS or a TABLE, and lists these options."""
    own = {"sources", "arch", "output", "columns", "quiet"}
    source = click.core.ParameterSource.COMMANDLINE
    given = [name for name in ctx.params if name not in own and ctx.get_parameter_source(name) == source]
    if given:
        names = {"lowest": "from", "highest": "to", "assignments": "set"}
        listed = ", ".join(f"--{names.get(name, name)}" for name in given)
        raise ConfigError(f"{listed}: has no effect with RUNS or a TABLE, which are trained already. Leave it out.")


def _trained(tunings: list[Tuning], folder: Path, launcher: str, workers: int | None, quiet: bool) -> list[Tuned]:
    """Train the runs of all tunings in `folder`, with one pool of workers, and return the results."""
    from matscale.core.hosting.host import host  # start-up: torch
    from matscale.core.study.sweep import Sweep
    from matscale.core.study.tune import tune as start

    chosen = host().launcher(launcher)
    options = chosen.options.parse({} if workers is None else {"workers": workers}, launcher)
    with closing(chosen.open(options, folder.resolve())) as pool:

        def do(plan: StudyPlan) -> None:
            with reporter(quiet) as progress:
                Sweep(plan, pool, progress).run()

        return [result for tuning in tunings for result in start(tuning, do)]


def _table(results: list[Tuned]) -> str:

    batches = any(result.batch is not None for result in results)
    heading = ["PARAMETERS", *(["BATCH"] if batches else []), "BEST LR", "LOSS", "AT LR/2", "AT 2 LR"]
    rows = [
        [
            f"{result.parameters['total']:,}",
            *([str(result.batch)] if batches else []),
            f"{result.lr:.3g}",
            f"{result.loss:.4g}",
            _change(result.half),
            _change(result.double),
        ]
        for result in results
    ]
    return aligned([heading, *rows], right=range(len(heading)))


def _change(factor: float | None) -> str:
    return "-" if factor is None else f"{factor - 1:+.1%}"


def _sentence(found: Dials, output: Path) -> str:
    lr_law = found.lr_law
    if lr_law.interval is None:
        how = "no interval: fewer than three sizes"
    else:
        how = f"95 % interval of the exponent {lr_law.interval[0]:.2f} to {lr_law.interval[1]:.2f}"
    batch = "" if lr_law.batch is None else f" at {lr_law.batch} structures in a batch"
    law = f"LR(N) = {lr_law.a:.3g} N^{lr_law.b:.2f}{batch}, N without embeddings ({how})"
    why = f" ({'; '.join(lr_law.reasons)})" if lr_law.reasons else ""
    return f"{law}. As a law: {lr_law.verdict}{why}. Written to {output}"
