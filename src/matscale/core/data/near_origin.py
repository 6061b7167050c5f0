"""Move structures near the origin in float64, before a batch rounds their positions to float32.

A position in float32 is accurate to 6·10⁻⁸ of its size: at 100,000 Å, edges would be wrong by 0.01 Å and forces by tens
of meV/Å. A structure with a coordinate beyond `FAR` is moved. Along periodic axes, each of its atoms is moved by whole
lattice vectors into the cell; along other axes, the structure is moved as a whole. Edge vectors stay the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from matscale.core.errors import DataError

FAR = 100.0
"""Largest coordinate [Å] of structures that are not moved: float32 resolves 8·10⁻⁶ Å there."""
FARTHEST = 1e8
"""Largest accepted distance from the origin [Å]: float64 resolves 1.5·10⁻⁸ Å there."""
_INSIDE = 1e-9
"""Fraction of a lattice vector by which an atom may lie before the start of its cell and still count as inside."""


Edges = tuple[NDArray[np.int64], NDArray[np.int32]]


def brought_near(
    positions: NDArray[Any],
    counts: NDArray[np.int64],
    cells: NDArray[Any],
    pbc: NDArray[np.bool_],
    edges: Edges | None = None,
) -> tuple[NDArray[Any], Edges | None]:
    """Move structures near the origin. Returns the new positions, and the edges with shifts that fit them.

    `positions` [n_atoms, 3] Å list the atoms of one structure after another; `counts` [n_structures] has the number of
    atoms of each structure. Structures without a coordinate beyond `FAR` are not moved. `edges` are (edge_index,
    edge_shift) of all structures, as `neighbors` returns them.
    """
    far = (np.abs(positions) > FAR).any(axis=1)
    if not far.any():
        return positions, edges
    ends = np.cumsum(counts)
    moved, taken = positions.astype(np.float64), np.zeros((len(positions), 3), dtype=np.int64)
    for s in np.unique(np.searchsorted(ends, np.flatnonzero(far), side="right")):
        atoms, rows = slice(ends[s] - counts[s], ends[s]), np.asarray(cells[s], dtype=np.float64)[pbc[s]]
        if not (np.isfinite(moved[atoms]).all() and np.isfinite(rows).all()):
            continue  # refused later, with the name of the structure
        if (farthest := np.abs(moved[atoms]).max()) > FARTHEST:
            raise DataError(
                f"An atom is {farthest:.3g} Å from the origin, where no digit of a bond length is accurate (largest "
                "accepted distance: "
                f"{FARTHEST:.0e} Å). Wrap the structure into its cell, or leave it out."
            )
        inverse = np.linalg.pinv(rows)  # [3, periodic axes]
        whole = np.floor(moved[atoms] @ inverse + _INSIDE)
        moved[atoms] -= whole @ rows
        taken[atoms, pbc[s]] = whole
        centre = moved[atoms].mean(axis=0)
        across = centre - centre @ inverse @ rows  # of the periodic axes
        if np.linalg.norm(across) > FAR:
            moved[atoms] -= across
    if edges is not None:
        (j, i), shift = edges
        edges = edges[0], (shift + taken[j] - taken[i]).astype(np.int32)
    return moved, edges
