"""Errors for users: each says what failed, where, what was given and what to do next.

`exit_code` is the exit code of the command line: 1 failed, 2 usage or plugin, 3 bad data, 4 non-finite loss, 5 stopped
early and saved, 6 another process of the run was lost.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MatscaleError(Exception):
    """Base class of all errors that matscale raises for its users."""

    exit_code = 1


class ConfigError(MatscaleError):
    """Error for a wrong option, name or configuration key."""

    exit_code = 2


class PluginError(MatscaleError):
    """Error for a plugin that was requested and cannot be used."""

    exit_code = 2


class OutputsError(PluginError):
    """Error for a model whose outputs have a wrong type, shape, dtype or device."""


class DataError(MatscaleError):
    """Error for data that cannot be used."""

    exit_code = 3


class NonFiniteLossError(MatscaleError):
    """Error for a loss that became NaN or infinite; the weights were not updated."""

    exit_code = 4


class NonFinitePrediction(MatscaleError):
    """Error for a trained model with weights or predictions that are NaN or infinite."""

    exit_code = 4


class StoppedEarly(MatscaleError):
    """Error for a run that was stopped on request. The run has saved a checkpoint and can be resumed."""

    exit_code = 5


class PeerLost(MatscaleError):
    """Error for a run on several processes, if another process ended or did not answer in time."""

    exit_code = 6


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name, and list the known names, as sentences for error messages.

    At most 20 names are listed.

    >>> did_you_mean("schent", ["schnet", "gemnet", "eqv2"])
    "Did you mean 'schnet'? Known: eqv2, gemnet, schnet."
    """
    known = sorted({each for each in known if each})
    if not known:
        return "None is known."
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    shown = ", ".join(known[:20]) + (f", ... ({len(known)} in all)" if len(known) > 20 else "")
    return f"{hint}Known: {shown}."
