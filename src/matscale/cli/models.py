"""`matscale models`: list architectures, and describe one at a given size."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from matscale.cli.text import aligned, parameter_counts
from matscale.cli.types import ArchitectureName, ParameterCount
from matscale.core.errors import MatscaleError, PluginError

if TYPE_CHECKING:
    from matscale.core.estimate.describe import Description
    from matscale.core.hosting.host import Host
    from matscale.core.model.architecture import Architecture, ArchitectureConfig


@click.group()
def models() -> None:
    """Show all architectures, one of them, or its size ladder."""


@models.command("list")
@click.option("--sizes", is_flag=True, help="List every published size, instead of one row per architecture.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the keys of `models show` without config.")
def list_models(sizes: bool, as_json: bool) -> None:
    """List the architectures with parameters, training FLOPs per atom and claimed symmetries.

    Each row is the default configuration of an architecture, with its paper. FLOPs are those of a training step
    (forward, loss, backward) per atom of an fcc crystal in which each atom of a radius graph has 42 neighbours. With
    --sizes they are left out for architectures without a formula for them: `models show` runs a step to count them.

    The table is kept in the cache folder (MATSCALE_CACHE) until matscale, a plugin or another package changes.
    """
    from matscale.core.data.named import cache  # start-up: packaging
    from matscale.core.hosting.host import host
    from matscale.core.hosting.remembered import remembered

    def ask() -> list[dict[str, Any]]:
        return [_row(host(), found, config) for found in host().architectures() for config in _configs(found, sizes)]

    file = cache.folder() / f"models{'-sizes' if sizes else ''}.json"
    rows = remembered(file, host(), ask, is_whole=lambda rows: all(row["parameters"] for row in rows))
    _note_unavailable(host())
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    heading = ["NAME", "SIZE", "PARAMETERS", "FLOPS/ATOM", "NEIGHBOURS", "PAPER", "CLAIMS"]
    click.echo(aligned([heading, *(_cells(row) for row in rows)], right=(2, 3, 4)))


@models.command()
@click.argument("name", type=ArchitectureName)
@click.option("--size", metavar="NAME", help="A published configuration.")
@click.option(
    "--params",
    type=ParameterCount(),
    help="Rung of the size ladder nearest to a number of parameters, embeddings included: 30k, 1M.",
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override a configuration key.")
@click.option("--count", is_flag=True, help="Run a step to check the FLOPs and to count element-wise work.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(
    name: str, size: str | None, params: int | None, assignments: tuple[str, ...], count: bool, as_json: bool
) -> None:
    """Show the architecture NAME: paper, claims, parameters, training FLOPs per atom, configuration.

    The configuration is the default, or that of --size or --params; --set overrides keys of it.
    """
    from matscale.core.estimate.describe import configuration, counted_per_atom, describe  # start-up: torch
    from matscale.core.hosting.host import host

    architecture = host().architecture(name)
    distribution, version = host().origin(name)
    try:
        config = configuration(architecture, size, params, assignments)
        description = describe(architecture, config, host())
        counted = counted_per_atom(architecture, config) if count else None
    except MatscaleError:
        raise
    except Exception as error:  # any error of a plugin's model: name the plugin
        text = f"{type(error).__name__}: {error}"
        raise PluginError(f"{name} ({distribution} {version}) cannot be built: {text}.") from error
    about: dict[str, Any] = {
        "summary": architecture.summary,
        "reference": architecture.reference,
        "forces": "gradient" if architecture.derives_forces(description.config) else "direct",
        "graph": architecture.graph(description.config).key,
        "dial": architecture.dial,
        "sizes": sorted(architecture.sizes),
        "distribution": distribution,
        "version": version,
    }
    if counted is not None:
        about["counted_per_atom"] = counted
    if as_json:
        click.echo(json.dumps(description.plain() | about, indent=2, ensure_ascii=False))
    else:
        click.echo(_page(description, about))


@models.command()
@click.argument("name", type=ArchitectureName)
@click.option("--from", "smallest", type=ParameterCount(), default="10k", show_default=True, help="Fewest parameters.")
@click.option("--to", "largest", type=ParameterCount(), default="10M", show_default=True, help="Most parameters.")
@click.option("--rungs", "n", type=click.IntRange(1), default=8, show_default=True, help="How many models.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list, the keys of `models show` in each row.")
def ladder(name: str, smallest: int, largest: int, n: int, as_json: bool) -> None:
    """Print a size ladder of the architecture NAME: sizes that are evenly spaced in the logarithm of the parameters.

    FLOPs are those of a training step, per atom of the crystal of `models show`, if there is a formula for them.
    """
    from matscale.core.estimate.describe import rungs  # start-up: torch
    from matscale.core.hosting.host import host

    architecture = host().architecture(name)
    found = rungs(architecture, host(), smallest, largest, n)
    if as_json:
        click.echo(json.dumps([rung.plain() for rung in found], indent=2, ensure_ascii=False))
        return
    configs = [rung.description.config.plain() for rung in found]
    varied = [key for key in configs[0] if len({str(config[key]) for config in configs}) > 1]
    table = [["WANTED", "PARAMETERS", "OFF", "NON-EMBEDDING", "FLOPS/ATOM", *varied]]
    for rung, config in zip(found, configs):
        d = rung.description
        flops = "-" if d.flops_per_atom is None else f"{d.flops_per_atom:.3g}"
        counts = [f"{rung.wanted:,}", f"{d.parameters['total']:,}", f"{100 * rung.deviation:+.1f} %"]
        counts += [f"{d.parameters['non_embedding']:,}", flops]
        table.append([*counts, *(str(config[key]) for key in varied)])
    click.echo(f"{name}: {architecture.dial}")
    click.echo(aligned(table, right=range(5 + len(varied))))


def _configs(architecture: Architecture, sizes: bool) -> list[ArchitectureConfig | None]:
    """Configurations to list for an architecture; None is the default one, which is made later, since it may fail."""
    return [*architecture.sizes.values()] if sizes and architecture.sizes else [None]


def _row(host: Host, architecture: Architecture, config: ArchitectureConfig | None) -> dict[str, Any]:
    """Row of the table for one architecture; if its model cannot be built, prints a warning and leaves numbers out."""
    from matscale.core.estimate.describe import configuration, describe  # start-up: torch

    try:
        # Running a step of every published size of a large model would take minutes.
        row = describe(architecture, config or configuration(architecture), host, measure=config is None).plain()
        return {key: value for key, value in row.items() if key != "config"}
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        click.echo(f"Warning: {architecture.name}: cannot be built ({text}). See `matscale plugins check`.", err=True)
        claims = sorted(architecture.claims)
        unknown = {"size": None, "parameters": None, "flops_per_atom": None, "neighbors_per_atom": None}
        return {"name": architecture.name, **unknown, "claims": claims, "reference": architecture.reference}


def _cells(row: dict[str, Any]) -> list[str]:
    counts, flops = row["parameters"], row["flops_per_atom"]
    return [
        row["name"],
        row["size"] or "-",
        f"{counts['total']:,}" if counts else "-",
        f"{flops:.3g}" if flops is not None else "-",
        f"{row['neighbors_per_atom']:g}" if row["neighbors_per_atom"] is not None else "-",
        row["reference"],
        ", ".join(row["claims"]),
    ]


def _note_unavailable(host: Host) -> None:
    broken = [plugin.asked for plugin in host.plugins if plugin.state in ("failed", "incompatible")]
    if broken:
        click.echo(f"Left out: {', '.join(broken)}. `matscale plugins list --load` says why.", err=True)


def _page(description: Description, about: dict[str, Any]) -> str:
    counts, fields = description.parameters, type(description.config).model_fields
    facts = {
        "reference": about["reference"],
        "from": f"{about['distribution']} {about['version']}",
        "size": description.size or "none of the published ones",
        "sizes": ", ".join(about["sizes"]) or "none published",
        "ladder": about["dial"],
        "parameters": parameter_counts(counts),
        "FLOPs": f"{description.flops_per_atom:,.0f} per atom and training step, "
        f"at {description.neighbors_per_atom:g} neighbours per atom",
        **_counted(about.get("counted_per_atom")),
        "forces": about["forces"],
        "graph": about["graph"],
        "claims": ", ".join(description.claims) or "none",
    }
    said = {key: " ".join((field.description or "").split()) for key, field in fields.items()}  # a docstring has lines
    config = [[f"  {k}", _short(v), said[k]] for k, v in description.config.plain().items()]
    lines = [f"{description.name}: {about['summary']}", "", aligned([[f"  {k}", v] for k, v in facts.items()])]
    return "\n".join([*lines, "", "configuration", aligned(config)] if config else lines)


def _short(value: Any) -> str:
    """Shorten a long value, such as a list of elements, so that other keys stay visible; --json prints it whole."""
    text = str(value)
    return text if len(text) <= 48 else f"{text[:28]} ... {text[-15:]}"


def _counted(per_atom: dict[str, float] | None) -> dict[str, str]:
    """Describe the FLOPs that were counted in a step; empty if no step was run."""
    if per_atom is None:
        return {}
    share = 100 * per_atom["elementwise"] / per_atom["contractions"] if per_atom["contractions"] else 0.0
    text = f"{per_atom['contractions']:,.0f}, and {per_atom['elementwise']:,.0f} element-wise ({share:.1f} %) besides"
    return {"counted": text}
