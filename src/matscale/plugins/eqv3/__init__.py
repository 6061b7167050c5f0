"""EquiformerV3: `model` has the equations, `attention` the messages, `heads` the outputs, `sizes` the sizes."""

from __future__ import annotations

from matscale.plugin import Architecture, Importer, hookimpl
from matscale.plugins.eqv3.config import EqV3Config
from matscale.plugins.eqv3.counts import COUNTS
from matscale.plugins.eqv3.fairchem.importer import IMPORTER
from matscale.plugins.eqv3.model import EqV3, build, graph
from matscale.plugins.eqv3.sizes import DIAL, SIZES, ladder

__all__ = ["SIZES", "EqV3", "EqV3Config", "build", "graph", "ladder", "register_architectures", "register_importers"]


def claims(config: EqV3Config) -> frozenset[str]:
    """Symmetries and other properties that a model of this configuration claims to have.

    Rotation is exact, since the grids integrate products of functions exactly. No model claims reflection: these
    products, and convolutions on edges, distinguish left and right.
    """
    return config.claims(rotation=True)


@hookimpl
def register_architectures() -> list[Architecture]:
    return [
        Architecture(
            name="eqv3",
            summary="EquiformerV3: attention between functions on the sphere, exactly equivariant and smooth.",
            reference="arXiv:2604.09130",
            config=EqV3Config,
            build=build,
            ladder=ladder,
            dial=DIAL,
            claims_for=claims,
            forces="both",
            graph=graph,
            sizes=SIZES,
            step_flops=COUNTS.step_flops,
        )
    ]


@hookimpl
def register_importers() -> list[Importer]:
    return [IMPORTER]
