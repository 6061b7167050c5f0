"""FLOPs of the core's own geometry, for formulas of models whose forces are derivatives."""

from __future__ import annotations

from matscale.core.architecture import BatchShape


def derived_geometry_flops(shape: BatchShape) -> float:
    """Strain of positions and cells and the vectors of edges, in a training step with derived forces and stress.

    Positions times a 3 × 3 strain are 9 multiply-adds an atom: forward, to both factors, and each of these three again
    to both of its own in the second backward, 1 + 2 + 6 times. Cells (27 a structure) and the shifts of edges (9 an
    edge) are constants that meet one factor with a gradient: 4 times.
    """
    return 2.0 * (9 * 9 * shape.n_atoms + 4 * 27 * shape.n_structures + 4 * 9 * shape.n_edges)
