"""Diatomic curves: energy and force of two atoms against their distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import NDArray

BOX = 30.0
"""Edge [Å] of the box around the two atoms, which is not periodic."""


@dataclass(frozen=True)
class Diatomic:
    """Curve of two equal atoms."""

    bond_length: float
    """Distance of the lowest energy [Å]"""
    depth: float
    """Energy at the largest distance, less the lowest energy [eV]"""
    n_minima: int
    """Number of minima; more than one is unphysical for most elements"""
    distances: NDArray[np.float64]
    """Distances [Å]"""
    energies: NDArray[np.float64]
    """Energies, less that at the largest distance [eV]"""
    forces: NDArray[np.float64]
    """Force between the atoms [eV/Å]; positive if they repel each other"""

    def columns(self, reference: Diatomic | None) -> dict[str, float]:
        """Errors of bond length [Å] and depth [eV] against a reference."""
        if reference is None:
            return {}
        return {
            "bond_length_error": abs(self.bond_length - reference.bond_length),
            "bond_depth_error": abs(self.depth - reference.depth),
        }


def diatomic_curve(symbol: str, calculator: Any, farthest: float = 6.0, n_points: int = 121) -> Diatomic:
    """Energy and force of two atoms of one element, at distances from 0.7 times the bond length to `farthest` Å.

    The bond length meant here is twice the covalent radius. `farthest` must be below the cutoff of a model that cannot
    predict atoms without neighbours.
    """
    distances = np.linspace(0.7 * 2 * covalent_radii[atomic_numbers[symbol]], farthest, n_points)
    energies, forces = np.zeros(n_points), np.zeros(n_points)
    for k, distance in enumerate(distances):
        pair = Atoms([symbol] * 2, positions=[[0, 0, 0], [distance, 0, 0]], cell=[BOX] * 3, pbc=False)
        pair.center()
        pair.calc = calculator
        energies[k] = pair.get_potential_energy()
        forces[k] = (pair.get_forces()[1, 0] - pair.get_forces()[0, 0]) / 2
    energies -= energies[-1]
    inner = energies[1:-1]
    n_minima = int(((inner < energies[:-2]) & (inner <= energies[2:])).sum())
    k = min(max(int(np.argmin(energies)), 1), n_points - 2)
    place = float(distances[k])
    if n_minima and energies[k] == energies.min():  # a parabola through three points
        left, here, right = energies[k - 1 : k + 2]
        place += float((left - right) / (left - 2 * here + right) / 2 * (distances[1] - distances[0]))
    return Diatomic(place, float(-energies.min()), n_minima, distances, energies, forces)
