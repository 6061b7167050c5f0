"""Command groups that know their commands by name and help line, and import a command only when it is used."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from matscale.core.errors import ConfigError, MatscaleError, did_you_mean
from matscale.core.train.processes.environment import refuse_copies


class LazyGroup(click.Group):
    """Command group that imports the module of a command only when this command is used."""

    def __init__(self, *args: Any, elsewhere: Mapping[str, tuple[str, str]], **settings: Any) -> None:
        """Set up the group; `elsewhere` has (`module:command`, line of help) for each command, by its name."""
        super().__init__(*args, **settings)
        self.elsewhere = elsewhere

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, *self.elsewhere})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.elsewhere:
            module, _, attribute = self.elsewhere[cmd_name][0].partition(":")
            command: click.Command = getattr(import_module(module), attribute)
            return command
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            hint = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"No such command {args[0]!r}. {hint}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines = {name: command.get_short_help_str(80) for name, command in self.commands.items()}
        lines |= {name: summary for name, (_, summary) in self.elsewhere.items()}
        with formatter.section("Commands"):
            formatter.write_dl([(name, lines[name]) for name in self.list_commands(ctx)])


class MainGroup(LazyGroup):
    """Command group `matscale`: its own commands in the order of the table, then those of plugins.

    An error in a command becomes a message.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.elsewhere)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.elsewhere:
            return super().get_command(ctx, cmd_name)
        from matscale.core.hosting.host import host  # start-up: plugins are searched only if one is requested

        return host().command(cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        found = super().resolve_command(ctx, args)
        if found[0] != "train":
            refuse_copies(str(found[0]))
        return found

    def invoke(self, ctx: click.Context) -> Any:
        default, warnings.formatwarning = warnings.formatwarning, _format_warning
        try:
            return super().invoke(ctx)
        except MatscaleError as error:
            if os.environ.get("MATSCALE_DEBUG"):
                raise
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            sys.stderr.close()  # the reader of the output has ended (`| head`)
            ctx.exit(0)
        except OSError as error:  # such as a full disk, which the user can solve
            if os.environ.get("MATSCALE_DEBUG"):
                raise
            if error.errno == errno.ENAMETOOLONG:
                click.echo(f"Error: {str(error.filename)[:40]}...: is too long for a path. Shorten it.", err=True)
                ctx.exit(ConfigError.exit_code)
            click.echo(f"Error: {error}. MATSCALE_DEBUG=1 shows where.", err=True)
            ctx.exit(1)
        finally:
            warnings.formatwarning = default


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Format a warning for the user as one sentence, without the line of code that issued it."""
    if issubclass(category, UserWarning):
        return f"Warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"
