"""eSEN: `model` has the equations, `blocks` the messages, `heads` the outputs, `sizes` the published sizes."""

from __future__ import annotations

from matscale.plugin import Architecture, Importer, hookimpl
from matscale.plugins.esen.config import ESENConfig
from matscale.plugins.esen.counts import COUNTS
from matscale.plugins.esen.fairchem.importer import IMPORTER
from matscale.plugins.esen.model import ESEN, build, graph
from matscale.plugins.esen.sizes import DIAL, SIZES, ladder

__all__ = ["ESEN", "SIZES", "ESENConfig", "build", "graph", "ladder", "register_architectures", "register_importers"]


def claims(config: ESENConfig) -> frozenset[str]:
    """Symmetries and other properties that a model of this configuration claims to have.

    No model claims reflection, since convolutions on edges distinguish left and right. Without grids, rotation is
    exact. An activation on a grid breaks this symmetry by the error of the grid, so that such a model does not claim
    it.
    """
    return config.claims(rotation=not config.has_grids)


@hookimpl
def register_architectures() -> list[Architecture]:
    return [
        Architecture(
            name="esen",
            summary="eSEN: smooth messages between atoms that carry functions on the sphere; forces conserve energy.",
            reference="arXiv:2502.12147",
            config=ESENConfig,
            build=build,
            ladder=ladder,
            dial=DIAL,
            claims_for=claims,
            forces="both",
            graph=graph,
            sizes=SIZES,
            step_flops=COUNTS.step_flops,
            compiles=True,
            max_atomic_number=ESENConfig().max_atomic_number,
        )
    ]


@hookimpl
def register_importers() -> list[Importer]:
    return [IMPORTER]
