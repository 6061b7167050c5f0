"""SchNet: `model` has the equations, `pairs` the sums over periodic images, `fairchem` the import."""

from __future__ import annotations

from matscale.plugin import Architecture, Importer, hookimpl
from matscale.plugins.schnet.fairchem.names import IMPORTER
from matscale.plugins.schnet.model import SIZES, SchNet, SchNetConfig, build, graph, ladder, step_flops

__all__ = [
    "SIZES",
    "SchNet",
    "SchNetConfig",
    "build",
    "graph",
    "ladder",
    "register_architectures",
    "register_importers",
]

CLAIMS = frozenset(
    {"permutation", "translation", "periodic", "rotation", "reflection", "extensive", "smooth", "conservative"}
)


def claims_for(config: SchNetConfig) -> frozenset[str]:
    """Symmetries and other properties that a model of this configuration claims to have.

    A limit on the number of neighbours breaks symmetries: it chooses among neighbours at equal distance, which a
    symmetry may exchange.
    """
    return CLAIMS if config.max_neighbors is None else frozenset({"translation", "conservative"})


@hookimpl
def register_architectures() -> list[Architecture]:
    return [
        Architecture(
            name="schnet",
            summary="Continuous-filter convolutions over periodic neighbours; energy conserving.",
            reference="arXiv:1706.08566",
            config=SchNetConfig,
            build=build,
            ladder=ladder,
            dial="hidden channels (as many filters), 3 interactions",
            claims_for=claims_for,
            forces="gradient",
            graph=graph,
            sizes=SIZES,
            step_flops=step_flops,
        )
    ]


@hookimpl
def register_importers() -> list[Importer]:
    return [IMPORTER]
