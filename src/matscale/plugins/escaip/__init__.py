"""EScAIP: `model` has the equations, `layout` the neighbours, `blocks` the attention, `sizes` the published sizes."""

from __future__ import annotations

from matscale.plugin import Architecture, Importer, hookimpl
from matscale.plugins.escaip.config import EScAIPConfig
from matscale.plugins.escaip.fairchem.names import IMPORTER
from matscale.plugins.escaip.flops import step_flops
from matscale.plugins.escaip.model import EScAIP, build, graph
from matscale.plugins.escaip.sizes import DIAL, SIZES, ladder

__all__ = [
    "SIZES",
    "EScAIP",
    "EScAIPConfig",
    "build",
    "graph",
    "ladder",
    "register_architectures",
    "register_importers",
]


def claims(config: EScAIPConfig) -> frozenset[str]:
    """Symmetries and other properties that a model of this configuration claims to have.

    The energy is invariant under rotation, but direct forces are not equivariant. No model of this family is smooth,
    for the reason given in `layout`.
    """
    held = {"permutation", "translation", "periodic", "extensive"}
    if not config.is_direct:
        held |= {"rotation", "reflection", "conservative"}
    return frozenset(held)


@hookimpl
def register_architectures() -> list[Architecture]:
    return [
        Architecture(
            name="escaip",
            summary="EScAIP: attention among the neighbours of each atom, on invariant features.",
            reference="arXiv:2410.24169",
            config=EScAIPConfig,
            build=build,
            ladder=ladder,
            dial=DIAL,
            claims_for=claims,
            forces="both",
            graph=graph,
            sizes=SIZES,
            step_flops=step_flops,
            compiles=True,
            shows_attention=True,
        )
    ]


@hookimpl
def register_importers() -> list[Importer]:
    return [IMPORTER]
