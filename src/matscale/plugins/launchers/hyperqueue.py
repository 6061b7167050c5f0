"""Launcher `hyperqueue`: hundreds of short runs inside one allocation, by HyperQueue.

HyperQueue has a server and workers of its own, which run inside a job of the cluster. It packs tasks onto the cores and
GPUs of its workers, also fractions of them. The mechanism is that of the launcher `command`; the numbers of jobs hold
the identity of the server, so that the jobs of a server that is gone are never taken for those of the next one.
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
    """Way to reach the server: hyperqueue, the Python package, or hq, the program."""


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
