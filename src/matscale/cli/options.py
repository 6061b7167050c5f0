"""Options that several commands share, and the decorator that adds several at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from matscale.cli.types import PluginName

F = TypeVar("F", bound=Callable[..., Any])


def with_options(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Decorator that adds `options` to a command; its help lists them in this order."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress, only results and errors.")
launcher_option = click.option(
    "--launcher",
    type=PluginName("register_launchers", "launcher"),
    default="local",
    show_default=True,
    help="Launcher of the runs: local, slurm, command, hyperqueue, or one of a plugin.",
)
workers_option = click.option(
    "--workers", type=click.IntRange(1, 1024), help="Number of runs at the same time, with the launcher local."
)
