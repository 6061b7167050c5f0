"""GemNet: `model` has the equations, `angles` and `dihedrals` the sums over them, `sizes` the published sizes."""

from __future__ import annotations

from matscale.plugin import Architecture, Importer, hookimpl
from matscale.plugins.gemnet.config import GemNetConfig, graph
from matscale.plugins.gemnet.fairchem.importer import IMPORTER
from matscale.plugins.gemnet.flops import step_flops
from matscale.plugins.gemnet.model import GemNet, build
from matscale.plugins.gemnet.sizes import DIAL, SIZES, ladder

__all__ = [
    "SIZES",
    "GemNet",
    "GemNetConfig",
    "build",
    "graph",
    "ladder",
    "register_architectures",
    "register_importers",
]


def claims(config: GemNetConfig) -> frozenset[str]:
    """Symmetries and other properties that a model of this configuration claims to have.

    A limit on the number of neighbours breaks symmetries: it chooses among neighbours at equal distance, which a
    symmetry may exchange.

    A dihedral angle is undefined if three of its four atoms lie on a line, and changes abruptly close to such a line:
    a model with quadruplets is not smooth.
    """
    if any(rule.kind == "nearest" for rule in config.rules):
        return frozenset({"translation", "conservative"})
    held = {"permutation", "translation", "periodic", "rotation", "reflection", "extensive", "conservative"}
    return frozenset(held if config.quadruplets else held | {"smooth"})


@hookimpl
def register_architectures() -> list[Architecture]:
    return [
        Architecture(
            name="gemnet",
            summary="GemNet-T, -dT and -OC: messages between edges that see angles and dihedrals.",
            reference="arXiv:2106.08903",
            config=GemNetConfig,
            build=build,
            ladder=ladder,
            dial=DIAL,
            claims_for=claims,
            forces="both",
            graph=graph,
            sizes=SIZES,
            step_flops=step_flops,
        )
    ]


@hookimpl
def register_importers() -> list[Importer]:
    return [IMPORTER]
