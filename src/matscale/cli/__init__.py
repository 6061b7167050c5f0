"""The command line: a table of commands, each imported when it is asked for. Only this package knows click and rich.

Results go to stdout, progress and warnings to stderr; a MatscaleError becomes its message and its exit code.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from typing import Any

import click

from matscale.core.errors import MatscaleError, did_you_mean
from matscale.version import __version__

COMMANDS = {
    "train": ("matscale.cli.train:train", "Train one model."),
    "estimate": ("matscale.cli.estimate:estimate", "Parameters, FLOPs, memory, time and disk of a run, before it."),
    "sweep": ("matscale.cli.sweep:sweep", "The grid of runs of a study: plan, do, take up again."),
    "tune": ("matscale.cli.tune:tune", "The learning rate of a few small sizes, and a rule for all."),
    "runs": ("matscale.cli.runs:runs", "The runs in a folder: list, show."),
    "fit": ("matscale.cli.laws:fit", "Scaling laws of runs or a table, with verdicts."),
    "compare": ("matscale.cli.laws:compare", "Whether architectures scale with the same exponent."),
    "plan": ("matscale.cli.laws:plan", "What to train with a budget, or for a loss."),
    "report": ("matscale.cli.report:report", "Runs, laws and figures as one page that needs no network."),
    "models": ("matscale.cli.models:models", "The architectures: list, show, ladder."),
    "plugins": ("matscale.cli.plugins:plugins", "The plugins: list, check, new."),
    "data": ("matscale.cli.data:data", "Make, pack, inspect and fetch datasets."),
    "baselines": ("matscale.cli.baselines:baselines", "Errors of zero, mean, composition and nearest neighbour."),
    "evaluate": ("matscale.cli.use:evaluate", "Errors of a trained model on a dataset."),
    "predict": ("matscale.cli.use:predict", "Predictions of a trained model for structures in a file."),
    "import": ("matscale.cli.importing:importing", "Models of other programs, as runs: fairchem."),
    "export": ("matscale.cli.fairchem:exporting", "Runs, for other programs: fairchem."),
}
"""Name -> (where the click command lives, its line in `matscale --help`)."""


class LazyGroup(click.Group):
    """Knows its commands by name and summary; imports one when it is run or asked for its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            command: click.Command = getattr(import_module(module), attribute)
            return command
        from matscale.core.hosting.host import host

        return host().command(cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            raise click.UsageError(f"No such command {args[0]!r}. {did_you_mean(args[0], COMMANDS)}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

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
            sys.stderr.close()  # the reader of our output left (`| head`): nothing more to say
            ctx.exit(0)
        except OSError as error:  # a full disk, a folder without permission: the user's to mend
            if os.environ.get("MATSCALE_DEBUG"):
                raise
            click.echo(f"Error: {error}. MATSCALE_DEBUG=1 shows where.", err=True)
            ctx.exit(1)
        finally:
            warnings.formatwarning = default


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """What we tell a user is a sentence; the line of code that says it is no help."""
    if issubclass(category, UserWarning):
        return f"Warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="matscale")
def main() -> None:
    """How neural models of materials scale: train, count, fit and compare architectures.

    Start with `matscale train --arch schnet`. MATSCALE_DEBUG=1 shows the traceback behind an error. For completion in
    bash: eval "$(_MATSCALE_COMPLETE=bash_source matscale)" (zsh and fish alike).
    """
