"""Effective medium theory (EMT) in ASE's implementation, for seven close-packed metals and their alloys.

Jacobsen, Stoltze & Nørskov, Surf. Sci. 366, 394 (1996), doi:10.1016/0039-6028(96)00816-3. Energies are relative to the
elements' fcc crystals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms, __version__
from ase.calculators.emt import EMT
from numpy.typing import NDArray

from matscale.plugin import Graph, Labeler, hookimpl, neighbors


class _Neighbors:
    """Neighbour list for EMT; ASE's own takes as long as EMT itself, and its results depend on earlier calls."""

    def __init__(self, cutoff: float) -> None:
        self.graph = Graph.radius(cutoff)

    def update(self, atoms: Atoms) -> None:
        (self.j, i), self.shift = neighbors(atoms.positions, atoms.cell.array, atoms.pbc, self.graph)
        self.start = np.searchsorted(i, np.arange(len(atoms) + 1))  # edges come sorted by centre

    def get_neighbors(self, atom: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        edges = slice(self.start[atom], self.start[atom + 1])
        return self.j[edges], self.shift[edges]


class FastEMT(EMT):
    """ASE's EMT with a faster neighbour list."""

    def initialize(self, atoms: Atoms) -> None:
        super().initialize(atoms)
        self.nl: Any = _Neighbors(self.rc_list)


def tag() -> str:
    """Name of the labeler, with the version of ASE, which contains the parameters."""
    return f"emt (ase {__version__})"


@hookimpl
def register_labelers() -> list[Labeler]:
    return [
        Labeler(
            name="emt",
            summary="Effective medium theory of close-packed metals (ASE); nothing to install.",
            reference="doi:10.1016/0039-6028(96)00816-3",
            calculator=FastEMT,
            tag=tag,
            # ASE also has H, C, N and O, "just for fun": not for data.
            elements=("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au"),
        )
    ]
