"""Launcher `hyperqueue`: hundreds of short runs inside one allocation, by HyperQueue.

HyperQueue has its own server and workers, which run inside a job of the cluster. It places tasks on the cores and GPUs
of its workers, also on fractions of a GPU. The mechanism is that of the launcher `command`. The number of a job
contains the identity of the server, so that jobs of a server that has ended are not mistaken for jobs of the next one.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from matscale.plugin import ConfigError, Launcher, hookimpl
from matscale.plugins.launchers.command import CommandOptions, CommandPool


class HyperQueueOptions(CommandOptions):
    """Table `[hyperqueue]` of a study file."""

    preset: str | None = "hyperqueue"
    """Way to reach the server: `hyperqueue` (the Python package) or `hq` (the program)."""


def _open(options: Any, study: Path) -> CommandPool:
    if "hyperqueue_client" in options.submit and importlib.util.find_spec("hyperqueue") is None:
        raise ConfigError(
            "The launcher hyperqueue needs the package hyperqueue: pip install 'matscale[hyperqueue]'. With the "
            'program hq in place of it, set preset = "hq" in [hyperqueue] of the study file.'
        )
    return CommandPool(options, study, "hyperqueue")


@hookimpl
def register_launchers() -> list[Launcher]:
    summary = "many short runs inside one allocation, by HyperQueue"
    return [Launcher("hyperqueue", summary, HyperQueueOptions, _open, outlives=True)]
