"""`matscale plugins`: list plugins, check one against the contract, create a new one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matscale.cli.scaffold import names, write
from matscale.cli.text import aligned
from matscale.cli.types import PluginName
from matscale.core.errors import PluginError

if TYPE_CHECKING:
    from matscale.core.hosting.loading import Plugin
    from matscale.core.model.architecture import Architecture

COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}


@click.group()
def plugins() -> None:
    """Manage plugins: list them, check one, create a new one.

    MATSCALE_BLOCK_PLUGINS=NAME,... blocks plugins; MATSCALE_NO_PLUGINS=1 blocks all except the built-in ones.
    """


@plugins.command("list")
@click.option("--load", is_flag=True, help="Import each plugin, to find its API version and whether it works.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_plugins(load: bool, as_json: bool) -> None:
    """List all installed plugins with status and reason.

    Without --load nothing is imported: the status is `blocked` or `clash` according to the metadata, else `not loaded`;
    hooks are found in the source. With --load, the status is `ok`, `failed`, `incompatible`, `blocked` or `clash`. A
    clash means that another plugin has the same name; use distribution:name.
    """
    from matscale.core.hosting.host import BLOCK, host  # start-up: packaging

    if load:
        host().load_all()
    for name in host().unknown_blocks:
        click.echo(f"Warning: {BLOCK} names {name!r}, but there is no plugin of that name.", err=True)
    rows = [_row(plugin) for plugin in host().plugins]
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    cells = [[_cell(value) for value in row.values()] for row in rows]
    click.echo(aligned([["NAME", "DISTRIBUTION", "VERSION", "API", "HOOKS", "STATUS", "REASON"], *cells]))


@plugins.command()
@click.argument("name", type=PluginName())
@click.option("--json", "as_json", is_flag=True, help="Print JSON: what was checked, by architecture.")
@click.pass_context
def check(ctx: click.Context, name: str, as_json: bool) -> None:
    """Check the plugin NAME: import it, then run the contract tests on each of its architectures.

    If the plugin cannot be imported, its traceback is printed and the exit code is 2; after a failed check it is 1. The
    contract tests what an architecture claims: see `matscale models show`.
    """
    from matscale.core.hosting.host import host  # start-up: packaging
    from matscale.core.hosting.loading import plugin_traceback

    plugin = host().plugin(name).load()
    if plugin.error is not None:
        click.echo(plugin_traceback(plugin.error), err=True)
    if plugin.state != "ok":
        raise PluginError(plugin.complaint())
    if not as_json:
        click.echo(_summary(plugin))
    reports = {a.name: _contract(a, quiet=as_json) for a in plugin.provides.get("architecture", {}).values()}
    if as_json:
        click.echo(json.dumps(_row(plugin) | {"contract": reports}, indent=2, ensure_ascii=False))
    if any(result["status"] == "failed" for results in reports.values() for result in results):
        ctx.exit(1)


@plugins.command()
@click.argument("name")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Folder to make. [default: NAME]")
def new(name: str, output: Path | None) -> None:
    """Write a complete package for an architecture NAME: model, test, pyproject.toml.

    The package works at once: its model is a small embedded-atom model, which passes the contract and can be trained.
    """
    from matscale.core.hosting.host import host  # start-up: packaging

    values = names(name, taken={plugin.name for plugin in host().plugins})
    folder = output or Path(name)
    for path in write(folder, values):
        click.echo(path)
    # `./name`, so that pip does not look for a package of this name on the index.
    where = folder if folder.is_absolute() else f"./{folder}"
    click.echo(f"\nNext:\n  pip install -e {where}\n  matscale plugins check {name}\n  matscale train --arch {name}")


def _row(plugin: Plugin) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "distribution": plugin.entry.distribution,
        "version": plugin.entry.version,
        "api": "{}.{}".format(*plugin.api) if plugin.api else None,
        "hooks": plugin.hooks,
        "status": plugin.status,
        "reason": plugin.reason,
    }


def _cell(value: Any) -> str:
    return ", ".join(value) or "-" if isinstance(value, list) else str(value or "-")


def _summary(plugin: Plugin) -> str:
    supplies = [f"{kind} {', '.join(values)}" for kind, values in plugin.provides.items() if values]
    facts = {
        "from": f"{plugin.entry.distribution} {plugin.entry.version}, {plugin.entry.value}",
        "API": _cell(_row(plugin)["api"]),
        "hooks": _cell(plugin.hooks),
        "supplies": "; ".join(supplies) or "-",
        "status": f"{plugin.status}: {plugin.reason}" if plugin.reason else plugin.status,
    }
    return "\n".join([plugin.name, aligned([[f"  {key}", value] for key, value in facts.items()])])


def _contract(architecture: Architecture, quiet: bool) -> list[dict[str, str]]:
    """Run all contract tests on one architecture; print a line for each test unless `quiet`."""
    from matscale.testing import run_contract  # start-up: torch

    click.echo(f"Checking architecture {architecture.name} ...", err=True)
    results = [{"name": r.name, "status": r.status, "detail": r.detail} for r in run_contract(architecture)]
    if not quiet:
        lines = aligned([[f"  {r['status']}", r["name"], " ".join(r["detail"].split())] for r in results]).splitlines()
        for line, result in zip(lines, results):
            click.secho(line, fg=COLOURS[result["status"]])
        counts = [f"{sum(r['status'] == status for r in results)} {status}" for status in COLOURS]
        click.echo(f"{architecture.name}: {', '.join(counts)}")
    return results
