"""Transformers over all atoms of a structure: `plain` sees coordinates, `periodic` a crystal; `encoder` is shared.

They are two architectures and not one with an option: laws are fitted by architecture, so that runs of both never get
into one law, and `matscale compare` compares the two.
"""

from __future__ import annotations

from matscale.plugin import Architecture, hookimpl
from matscale.plugins.transformer import periodic, plain

__all__ = ["periodic", "plain", "register_architectures"]


@hookimpl
def register_architectures() -> list[Architecture]:
    return [plain.ARCHITECTURE]
