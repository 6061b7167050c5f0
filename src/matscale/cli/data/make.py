"""`matscale data make` and `matscale data fetch`: make synthetic datasets, and download published datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from matscale.cli.progress.reporter import reporter
from matscale.cli.text import aligned
from matscale.cli.types import ParamType, PluginName, limit_option
from matscale.core.errors import ConfigError
from matscale.core.threads import usable_cores


class Listed(ParamType):
    """Type of option values that are separated by commas: `Cu,Ni`."""

    def __init__(self, of: ParamType) -> None:
        self.of, self.name = of, f"{of.name},..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        return tuple(self.of.convert(part, param, ctx) for part in parts if part)


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="New folder of the dataset.")
@click.option("--n", type=click.IntRange(min=1), help="Structures.  [default: 4000]")
@click.option(
    "--labeler",
    type=PluginName("register_labelers", "labeler"),
    help="Potential that labels: emt, chgnet, sevennet, or a plugin's.  [default: emt]",
)
@click.option(
    "--elements",
    type=Listed(click.STRING),
    help="Elements of prototypes, such as Cu,Ni.  [default: all of the labeler]",
)
@click.option(
    "--prototypes",
    type=Listed(click.STRING),
    help="Prototypes among fcc,bcc,hcp,l12,l10,random, used in turn.  [default: all]",
)
@click.option(
    "--from",
    "files",
    type=click.Path(exists=True),
    multiple=True,
    help="File with parent structures, instead of prototypes; may be repeated.",
)
@click.option(
    "--temperatures", type=Listed(click.FLOAT), help="Temperatures of rattling in K.  [default: 300,500,1000]"
)
@click.option(
    "--md-temperatures", type=Listed(click.FLOAT), help="Temperatures of dynamics in K.  [default: 300,1000,3000]"
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of all random numbers.  [default: 0]")
@click.option(
    "--config",
    type=click.Path(exists=True, path_type=Path),
    help="File with a recipe; other options override it.",
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any other key of the recipe.")
@limit_option
@click.option("--workers", type=click.IntRange(1, 1024), help="Processes.  [default: one per core]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def make(
    out: Path, config: Path | None, assignments: tuple[str, ...], workers: int | None, as_json: bool, **given: Any
) -> None:
    """Make a dataset: parent structures, rattled, strained and heated, with labels from a potential.

    Parents come from prototypes or files. The recipe alone determines the dataset, for any number of workers; it is
    stored in OUT/recipe.toml. Keys of the recipe without an option of their own: max_atoms, per_parent, dynamics,
    strained, strain, spring, closeness, forces_max and stress_max (--set strain=0.01).
    """
    from matscale.core.config import override, read_toml  # start-up: torch
    from matscale.core.data.synthetic.make import make as make_dataset
    from matscale.core.data.synthetic.recipe import Recipe
    from matscale.core.hosting.host import host

    keys = {"temperatures": "rattle_temperatures", "md_temperatures": "dynamics_temperatures"}
    values = read_toml(config) if config else {}
    values |= {keys.get(key, key): value for key, value in given.items() if value not in (None, ())}
    if values.get("files") and (idle := [key for key in ("prototypes", "elements") if given[key]]):
        raise ConfigError(
            f"--{idle[0]}: the parents are taken from {values['files'][0]} unchanged, so this option has no effect. "
            f"Leave out --from or --{idle[0]}."
        )
    labeler = host().labeler(values.pop("labeler", "emt"))
    recipe = Recipe.parse(override(values, assignments), str(config or "recipe"))
    with reporter() as progress:
        manifest = make_dataset(recipe, labeler, out, workers or usable_cores(), progress)
    _report(out, manifest, as_json)


def _list_published(context: click.Context, option: click.Parameter, is_given: bool) -> None:
    if not is_given:
        return
    from matscale.core.data.named.published import SETS  # start-up: pydantic

    rows = [(name, f"{one.megabytes:,} MB", one.licence, one.citation) for name, one in SETS.items()]
    click.echo(aligned([("name", "download", "licence", "citation"), *rows], right=(1,)))
    context.exit()


@click.command()
@click.argument("name")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Folder of the dataset.  [default: in the cache, by name]"
)
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_published,
              help="List the names, with size, licence and citation.")  # fmt: skip
@limit_option
@click.option("--keep-archive", is_flag=True, help="Keep the downloaded files beside the dataset.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Processes that pack.  [default: one per core]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def fetch(name: str, out: Path | None, keep_archive: bool, workers: int | None, as_json: bool) -> None:
    """Download and pack the published dataset NAME.

    \b
    mattersim        MatterSim's benchmark sets: 9 MB, MIT, arXiv:2405.04967
    nbmotaw          Nb-Mo-Ta-W alloys: 23 MB, BSD-3-Clause, npj Comput. Mater. 6, 70;
                     nbmotaw/test is the test part
    omat24/SUBSET    OMat24: 6 to 32 GB, CC BY 4.0, arXiv:2410.12771;
                     omat24/val/SUBSET is the validation part
    salex            sAlex: 8 GB, CC BY 4.0, arXiv:2410.12771; salex/val

    The same command continues an interrupted download. A dataset in the cache can be used by its name (--data
    mattersim). MATSCALE_DATA_URL names a mirror, MATSCALE_CACHE another cache folder.
    """
    from matscale.core.data.named import published  # start-up: pydantic
    from matscale.core.data.store.manifest import Manifest

    with reporter() as progress:
        path = published.fetch(name, out, progress, workers or usable_cores(), keep_archive)
    row = published.published(name)
    _report(path, Manifest.read(path), as_json, {"licence": row.licence, "citation": row.citation})


def _report(path: Path, manifest: Any, as_json: bool, origin: dict[str, str] | None = None) -> None:
    if as_json:
        keys = ("n_structures", "n_atoms", "labels_by", "hash", "rejected")
        values = {key: getattr(manifest, key) for key in keys}
        click.echo(json.dumps({"path": str(path), **values, "elements": list(manifest.elements), **(origin or {})}))
        return
    click.echo(
        f"{path}: {manifest.n_structures:,} structures, {manifest.n_atoms:,} atoms of {', '.join(manifest.elements)}; "
        f"labels: {manifest.labels_by or 'as published'}; {manifest.rejected:,} left out."
    )
    for key, value in (origin or {}).items():
        click.echo(f"{key}: {value}")
