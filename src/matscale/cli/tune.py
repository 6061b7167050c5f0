"""`matscale tune`: the learning rate of a few small sizes, and the rule that goes through them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matscale.cli.types import ArchitectureName, CommaSeparated, ParameterCount, PluginName
from matscale.core.errors import ConfigError

if TYPE_CHECKING:
    from matscale.core.study.lr_law import Rule
    from matscale.core.study.plan import Plan
    from matscale.core.study.tune import Tuned


@click.command()
@click.option("--arch", type=ArchitectureName, required=True, help="Architecture: `matscale models list`.")
@click.option("--params", type=CommaSeparated(ParameterCount()), required=True, help="Sizes to tune: 3k,10k,30k.")
@click.option("--data", default="emt", show_default=True, help="Packed dataset: a path or a name.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="File of the rule, TOML.")
@click.option(
    "--from", "lowest", type=float, default=3e-4, show_default=True, help="Lowest learning rate to begin with."
)
@click.option("--to", "highest", type=float, default=2e-2, show_default=True, help="Highest rate to begin with.")
@click.option(
    "--batch", type=CommaSeparated(click.IntRange(1)), help="Also choose among structures in a batch: 8,16,32."
)
@click.option("--seeds", type=CommaSeparated(click.IntRange(0)), default="0", show_default=True, help="0,1,2")
@click.option("--epochs", type=click.IntRange(1), help="Length of each run.  [default: 10, if --steps is not given]")
@click.option("--steps", type=click.IntRange(1), help="Length of each run in optimizer steps.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Fix any key of the configuration.")
@click.option(
    "--launcher",
    type=PluginName("register_launchers", "launcher"),
    default="local",
    show_default=True,
    help="Starts runs.",
)
@click.option("--workers", type=click.IntRange(1), help="Runs at once, with the launcher local.")
@click.option("--quiet", "-q", is_flag=True, help="No progress, only results and errors.")
def tune(
    arch: str,
    params: tuple[int, ...],
    data: str,
    output: Path,
    lowest: float,
    highest: float,
    batch: tuple[int, ...] | None,
    seeds: tuple[int, ...],
    epochs: int | None,
    steps: int | None,
    assignments: tuple[str, ...],
    launcher: str,
    workers: int | None,
    quiet: bool,
) -> None:
    """Find the best learning rate of a few small sizes, and write the rule LR(N) = a N^b through them.

    A study takes the rule by `lr = "lr.toml"`. The runs are kept in studies/tune-ARCH: the same command again does only
    what is missing.
    """
    from matscale.cli.progress.sweep import watcher_for
    from matscale.core.config import override
    from matscale.core.hosting.host import host
    from matscale.core.study.lr_law import write_rule
    from matscale.core.study.sweep import Sweep
    from matscale.core.study.tune import Tuning, default_output, rule
    from matscale.core.study.tune import tune as start

    if epochs and steps:
        raise ConfigError("--epochs and --steps are two ways to say how long a run is: give one of them.")
    if batch and steps:
        raise ConfigError("--batch: batches are compared at equal data, so the runs take --epochs, not --steps.")
    if workers is not None and launcher != "local":
        raise ConfigError("--workers is for the launcher local.")
    chosen = host().launcher(launcher)
    options = chosen.options.parse({} if workers is None else {"workers": workers}, launcher)
    base: dict[str, Any] = {
        "output": str(default_output(arch)),
        "data": {"path": data},
        "seeds": list(seeds),
        "budget": {"steps": steps} if steps else {"epochs": epochs or 10},
        "set": override({}, assignments),
    }

    tuning = Tuning(arch, params, lowest, highest, batch or (), base)
    with closing(chosen.open(options, default_output(arch).resolve())) as pool:

        def do(plan: Plan) -> None:
            with watcher_for(quiet, plan) as watcher:
                Sweep(plan, pool, watcher).run()

        results = start(tuning, do)
    found = rule(results)
    write_rule(output, arch, found)
    click.echo(_table(results))
    click.echo(_sentence(found, output))


def _table(results: list[Tuned]) -> str:
    from matscale.cli.text import aligned

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


def _sentence(rule: Rule, output: Path) -> str:
    if rule.interval is None:
        how = "no interval: fewer than three sizes"
    else:
        how = f"95 % interval of the exponent {rule.interval[0]:.2f} to {rule.interval[1]:.2f}"
    batch = "" if rule.batch is None else f" at {rule.batch} structures in a batch"
    return f"LR(N) = {rule.a:.3g} N^{rule.b:.2f}{batch}, N without embeddings ({how}). Rule: {output}"
