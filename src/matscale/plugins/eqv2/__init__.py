"""EquiformerV2: `model` has the equations, `rotation` and `so3` the geometry, `sizes` the published sizes."""

from __future__ import annotations

from matscale.plugin import Architecture, Importer, hookimpl
from matscale.plugins.eqv2.config import EqV2Config
from matscale.plugins.eqv2.counts import COUNTS
from matscale.plugins.eqv2.fairchem.importer import IMPORTER
from matscale.plugins.eqv2.model import EqV2, build, graph
from matscale.plugins.eqv2.sizes import DIAL, SIZES, ladder

__all__ = ["SIZES", "EqV2", "EqV2Config", "build", "graph", "ladder", "register_architectures", "register_importers"]

ROTATION_TOLERANCE = 1e-2
"""Bound on the rotation error of the narrow models in the contract tests, for all grids with which they claim rotation.

Models with other weights may exceed it: docs/eqv2.md has the error for each grid and size of the weights.
"""


def claims(config: EqV2Config) -> frozenset[str]:
    """Symmetries and other properties that a model of this configuration claims to have.

    No model claims reflection, since convolutions on edges distinguish left and right. The stress of the head `rank2`
    does not rotate with the structure.

    A coarse grid breaks the symmetry under rotation, too. With a resolution above 4 lmax, the terms of an activation up
    to third order are exact on the grid; the remaining error is below `ROTATION_TOLERANCE`.
    """
    turns = config.forces == "gradient" or config.stress_head != "rank2"
    return config.claims(rotation=turns and config.grid_resolution > 4 * config.lmax)


@hookimpl
def register_architectures() -> list[Architecture]:
    return [
        Architecture(
            name="eqv2",
            summary="EquiformerV2: attention between atoms that carry functions on the sphere.",
            reference="arXiv:2306.12059",
            config=EqV2Config,
            build=build,
            ladder=ladder,
            dial=DIAL,
            claims_for=claims,
            forces="both",
            graph=graph,
            sizes=SIZES,
            step_flops=COUNTS.step_flops,
            compiles=True,
            max_atomic_number=EqV2Config().max_atomic_number,
            rotation_tolerance=ROTATION_TOLERANCE,
        )
    ]


@hookimpl
def register_importers() -> list[Importer]:
    return [IMPORTER]
