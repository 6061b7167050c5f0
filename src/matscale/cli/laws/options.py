"""Options that several commands on laws have: runs or tables, columns, target, baselines, bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matscale.cli.options import with_options
from matscale.cli.types import Pairs
from matscale.core.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from matscale.core.scaling.tables.table import Table

BASELINES = (
    click.option(
        "--baselines",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="JSON file of `matscale baselines`.  [default for runs: they are measured]",
    ),
    click.option("--no-baselines", is_flag=True, help="Judge without baselines."),
)
SAMPLES = click.option(
    "--samples", type=click.IntRange(50, 100_000), default=1000, show_default=True, help="Bootstrap samples."
)


@dataclass(frozen=True)
class Input:
    """Values of the options that `fit`, `compare` and `plan` share: runs or tables, columns, target and baselines."""

    sources: tuple[str, ...]
    columns: tuple[dict[str, str], ...]
    where: tuple[dict[str, str], ...]
    target: str
    baselines: Path | None
    no_baselines: bool
    as_json: bool

    def table(self, curves: bool = False, lists_excluded: bool = False) -> Table:
        """Read the table, and print to stderr how it was read and which runs were left out.

        With `lists_excluded`, the command lists them itself, and they are not printed here.
        """
        from matscale.cli.laws.text import excluded_text  # start-up: scipy
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


_INPUT = with_options(
    click.argument("sources", nargs=-1, required=True, metavar="RUNS|TABLE..."),
    click.option(
        "--map",
        "columns",
        type=Pairs(),
        multiple=True,
        help="Columns of a table, as NAME=COLUMN: n=params,d=tokens,c=flops,loss=val_loss; further names: arch, "
        "seed, run, step, u, s, e. For runs: n=total, d=structures|atoms|edges, c=gpu_hours.",
    ),
    click.option("--where", type=Pairs(), multiple=True, help="Rows of a table to use: router_type=Dense."),
    click.option(
        "--target",
        default="loss",
        show_default=True,
        help="Quantity to fit: loss, energy, forces, stress, or a column.",
    ),
    *BASELINES,
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)


def input_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `Input` to a command, whose first argument is then an `Input` with their values."""

    @wraps(command)
    def with_input(**values: Any) -> None:
        command(Input(**{field.name: values.pop(field.name) for field in fields(Input)}), **values)

    return _INPUT(with_input)


sampled = with_options(
    click.option(
        "--checkpoint",
        type=click.Choice(["last", "best", "all"]),
        default="last",
        show_default=True,
        help="Step of each run that joint laws use.",
    ),
    SAMPLES,
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the bootstrap."),
)
"""Options --checkpoint, --samples and --seed: the points and the bootstrap of joint laws."""


def only(table: Table, architectures: tuple[str, ...]) -> Table:
    """Rows of the named architectures, or all rows if none is named.

    Raises DataError, with the reasons, if there are no rows, and ConfigError for an architecture without rows.
    """
    import numpy as np  # start-up: numpy

    if len(table) == 0:
        listed = "; ".join(f"{one.row}: {one.reason}" for one in table.excluded[:5])
        more = f"; and {len(table.excluded) - 5} more" if len(table.excluded) > 5 else ""
        raise DataError(f"No run is left to fit. Left out: {listed}{more}.")
    for name in architectures:
        if name not in table.architectures:
            raise ConfigError(f"There are no runs of {name!r}. {did_you_mean(name, table.architectures)}")
    return table.take(np.isin(table.words["arch"], architectures)) if architectures else table
