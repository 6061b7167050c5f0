"""FLOPs of the core's own geometry, for formulas of models whose forces are derivatives."""

from __future__ import annotations

from matscale.core.architecture import BatchShape


def derived_geometry_flops(shape: BatchShape) -> float:
    """Strain of positions and cells and the vectors of edges, in a training step with derived forces and stress.

    Positions times a 3 × 3 strain: forward, to both factors, and each of these three again in the second backward, to
    both of its own: 1 + 2 + 6 products, of which one factor in all is a leaf nobody differentiates. Cells are
    constants but for the strain, shifts of edges are constants: four products each.
    """
    return 2.0 * (9 * 9 * shape.n_atoms + 4 * 27 * shape.n_structures + 4 * 9 * shape.n_edges)
