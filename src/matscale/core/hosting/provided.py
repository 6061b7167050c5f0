"""Values that plugins supply by their `register_*` hooks: which kinds there are, and a check of their types."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

from matscale.core.errors import PluginError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Kind:
    """Kind of value that plugins supply, such as architectures."""

    word: str
    """Name of the kind, also in messages: `architecture`."""
    hook: str
    type: str
    """Class of the values of this kind, as `module:Class`."""


KINDS = {
    kind.word: kind
    for kind in (
        Kind("architecture", "register_architectures", "matscale.core.model.architecture:Architecture"),
        Kind("reader", "register_readers", "matscale.core.data.sources.reader:Reader"),
        Kind("labeler", "register_labelers", "matscale.core.data.synthetic.labelers:Labeler"),
        Kind("loss", "register_losses", "matscale.core.train.loss:Loss"),
        Kind("law", "register_laws", "matscale.core.scaling.law:Law"),
        Kind("tracker", "register_trackers", "matscale.core.hosting.tracker:Tracker"),
        Kind("launcher", "register_launchers", "matscale.core.study.launcher:Launcher"),
        Kind("importer", "register_importers", "matscale.core.fairchem.importer:Importer"),
        Kind("command", "register_commands", "click:Command"),
    )
}


def collect(hook: Any, implemented: list[str]) -> dict[str, dict[str, Any]]:
    """Collect everything that one plugin supplies, by kind and name.

    `implemented` lists the hooks of the plugin. Raises PluginError that names the hook if its result has the wrong
    type.
    """
    return {
        word: _by_name(kind, getattr(hook, kind.hook)()) for word, kind in KINDS.items() if kind.hook in implemented
    }


def _by_name(kind: Kind, results: list[Any]) -> dict[str, Any]:
    """Check the values that a hook returned, and return them by name.

    pluggy puts the returned list into another list, `results`.
    """
    values = results[0] if results else None
    if not isinstance(values, (list, tuple)):
        raise PluginError(f"{kind.hook} returned {shown(values)}; it must return a list.")
    named: dict[str, Any] = {}
    for value in values:
        _check(kind, value)
        if value.name in named:
            raise PluginError(f"{kind.hook} returned two values called {value.name!r}; each needs its own name.")
        named[value.name] = value
    return named


def _check(kind: Kind, value: Any) -> None:
    module, _, attribute = kind.type.partition(":")
    # A value of the type exists only if its module is already imported, so nothing (such as click) is imported here.
    expected = getattr(sys.modules.get(module), attribute, None)
    if expected is None or not isinstance(value, expected):
        raise PluginError(f"{kind.hook} returned a list with {shown(value)} in it; each must be a {kind.type}.")
    if not isinstance(value.name, str) or not _NAME.fullmatch(value.name):
        raise PluginError(
            f"{kind.hook} returned a value called {value.name!r}; a name consists of letters, digits and _ . + -, "
            "since users type it."
        )
    if kind.word == "architecture":
        value.check()


def shown(value: Any) -> str:
    """Format a value for a message: at most 60 characters of its repr, and its type."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
