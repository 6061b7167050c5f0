"""`matscale models`: which architectures there are, and what one of them is at a given size."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from matscale.cli.table import aligned
from matscale.cli.types import ArchitectureName, ParameterCount
from matscale.core.errors import MatscaleError, PluginError

if TYPE_CHECKING:
    from matscale.core.architecture import Architecture, ArchitectureConfig
    from matscale.core.describe import Description
    from matscale.core.manager import Host


@click.group()
def models() -> None:
    """The architectures: list them, show one of them."""


@models.command("list")
@click.option("--sizes", is_flag=True, help="A row for every published size instead of one per architecture.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the keys of `models show` without config.")
def list_models(sizes: bool, as_json: bool) -> None:
    """List the architectures with parameters, training FLOPs per atom and claimed symmetries.

    One row is the default configuration of an architecture. FLOPs are those of a training step (forward, loss,
    backward) per atom of an fcc crystal in which a radius graph has 42 neighbours per atom. With --sizes they are left
    out for architectures without a formula for them: `models show` runs a step to count them.
    """
    from matscale.core.manager import host

    rows = [
        _row(host(), architecture, config)
        for architecture in host().architectures()
        for config in _configs(architecture, sizes)
    ]
    _note_unavailable(host())
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    heading = ["NAME", "SIZE", "PARAMETERS", "FLOPS/ATOM", "CLAIMS"]
    click.echo(aligned([heading, *(_cells(row) for row in rows)], right=(2, 3)))


@models.command()
@click.argument("name", type=ArchitectureName)
@click.option("--size", metavar="NAME", help="A published configuration.")
@click.option("--params", type=ParameterCount(), help="The rung of the size ladder nearest to a count: 30k, 1M.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override a configuration key.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, size: str | None, params: int | None, assignments: tuple[str, ...], as_json: bool) -> None:
    """Show the architecture NAME: paper, claims, parameters, training FLOPs per atom, configuration.

    The configuration is the default one, or that of --size or --params, with every --set on top of it.
    """
    from matscale.core.describe import configuration, describe
    from matscale.core.manager import host

    architecture = host().architecture(name)
    distribution, version = host().origin(name)
    try:
        description = describe(architecture, configuration(architecture, size, params, assignments), host())
    except MatscaleError:
        raise
    except Exception as error:  # whatever a plugin's model raises: say whose it is
        text = f"{type(error).__name__}: {error}"
        raise PluginError(f"{name} ({distribution} {version}) cannot be built: {text}.") from error
    about = {
        "summary": architecture.summary,
        "reference": architecture.reference,
        "forces": "gradient" if architecture.derives_forces(description.config) else "direct",
        "graph": architecture.graph(description.config).key,
        "dial": architecture.dial,
        "sizes": sorted(architecture.sizes),
        "distribution": distribution,
        "version": version,
    }
    if as_json:
        click.echo(json.dumps(description.plain() | about, indent=2, ensure_ascii=False))
    else:
        click.echo(_page(description, about))


def _configs(architecture: Architecture, sizes: bool) -> list[ArchitectureConfig | None]:
    """None stands for the default configuration: to make it may fail, as all that a plugin does."""
    return [*architecture.sizes.values()] if sizes and architecture.sizes else [None]


def _row(host: Host, architecture: Architecture, config: ArchitectureConfig | None) -> dict[str, Any]:
    """One architecture that fails must not take the list of the others with it."""
    from matscale.core.describe import configuration, describe

    try:
        # To run a step of every published size of a large model would take minutes.
        row = describe(architecture, config or configuration(architecture), host, measure=config is None).plain()
        return {key: value for key, value in row.items() if key != "config"}
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        click.echo(f"Warning: {architecture.name}: cannot be built ({text}). See `matscale plugins check`.", err=True)
        claims = sorted(architecture.claims)
        unknown = {"size": None, "parameters": None, "flops_per_atom": None, "neighbors_per_atom": None}
        return {"name": architecture.name, **unknown, "claims": claims}


def _cells(row: dict[str, Any]) -> list[str]:
    counts, flops = row["parameters"], row["flops_per_atom"]
    return [
        row["name"],
        row["size"] or "-",
        f"{counts['total']:,}" if counts else "-",
        f"{flops:.3g}" if flops is not None else "-",
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
        "parameters": ", ".join(f"{count:,} {word.replace('_', '-')}" for word, count in counts.items()),
        "FLOPs": f"{description.flops_per_atom:,.0f} per atom and training step, "
        f"at {description.neighbors_per_atom:g} neighbours per atom",
        "forces": about["forces"],
        "graph": about["graph"],
        "claims": ", ".join(description.claims) or "none",
    }
    config = [[f"  {k}", str(v), fields[k].description or ""] for k, v in description.config.plain().items()]
    lines = [f"{description.name}: {about['summary']}", "", aligned([[f"  {k}", v] for k, v in facts.items()])]
    return "\n".join([*lines, "", "configuration", aligned(config)] if config else lines)
