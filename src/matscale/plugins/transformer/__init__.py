"""Transformers over all atoms of a structure: `plain` uses coordinates, `periodic` periodic images.

They share `encoder`.

They are two architectures rather than one with an option, since laws are fitted for each architecture: runs of both are
never in one law, and `matscale compare` compares the two.
"""

from __future__ import annotations

from matscale.plugin import Architecture, hookimpl
from matscale.plugins.transformer import periodic, plain

__all__ = ["periodic", "plain", "register_architectures"]


@hookimpl
def register_architectures() -> list[Architecture]:
    return [plain.ARCHITECTURE]
