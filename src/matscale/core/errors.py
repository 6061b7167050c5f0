"""Errors for users: each says what failed, where, what was given and what to do next.

`exit_code` is what the command line ends with (DESIGN: 1 failed, 2 usage or plugin, 3 bad data, 4 non-finite
loss, 5 stopped early and saved, 6 another process of the run was lost).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MatscaleError(Exception):
    """Base of all errors that matscale raises for its users."""

    exit_code = 1


class ConfigError(MatscaleError):
    """An option, a name or a configuration key is wrong."""

    exit_code = 2


class PluginError(MatscaleError):
    """A plugin that was asked for cannot be used."""

    exit_code = 2


class DataError(MatscaleError):
    """The data cannot be used as they are."""

    exit_code = 3


class NonFiniteLossError(MatscaleError):
    """The loss became NaN or infinite; the optimizer was not stepped."""

    exit_code = 4


class NonFinitePrediction(MatscaleError):
    """A trained model has weights, or gives predictions, that are NaN or infinite."""

    exit_code = 4


class StoppedEarly(MatscaleError):
    """The run was asked to stop; it saved and can be resumed."""

    exit_code = 5


class PeerLost(MatscaleError):
    """Another process of the run ended, or did not answer in time."""

    exit_code = 6


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name, and all of them when they are few, in a sentence for error messages.

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
