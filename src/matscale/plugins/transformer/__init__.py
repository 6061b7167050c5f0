"""Transformers over all atoms of a structure: `plain` takes coordinates, `periodic` takes vectors to periodic images.

Both use the layers in `encoder`. They are two architectures rather than one with an option, since laws are fitted for
each architecture: no law mixes runs of the two, and `matscale compare` compares them.
"""

from __future__ import annotations

from matscale.plugin import Architecture, hookimpl
from matscale.plugins.transformer import periodic, plain

__all__ = ["periodic", "plain", "register_architectures"]


@hookimpl
def register_architectures() -> list[Architecture]:
    return [plain.ARCHITECTURE]
