"""Transformers over all atoms of a structure: `plain` sees coordinates, `periodic` a crystal; `encoder` is common.

Two architectures, each with an entry point, rather than an option of one: laws are fitted by architecture, so that runs
of the one and of the other never get into one law, and `matscale compare` sets the one against the other.
"""

from __future__ import annotations

from matscale.plugin import Architecture, hookimpl
from matscale.plugins.transformer import periodic, plain

__all__ = ["periodic", "plain", "register_architectures"]


@hookimpl
def register_architectures() -> list[Architecture]:
    return [plain.ARCHITECTURE]
