"""Smoothness of forces along a path: jumps of a potential that is not continuous, and work that is not an energy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

DIRECTION = np.array([0.61, 0.57, 0.55]) / np.linalg.norm([0.61, 0.57, 0.55])
"""Direction in which the atom moves: near a diagonal of the cube, but along no axis of symmetry."""
HALVINGS = 12
"""Number of times that the interval with the most sudden change is halved."""


@dataclass(frozen=True)
class Smoothness:
    """Forces along a straight path of one atom through a crystal."""

    largest_jump: float
    """Largest change of the force on an atom between neighbouring points [eV/Å]"""
    step: float
    """Distance between neighbouring points [Å]"""
    discontinuity: float
    """Jump that remains if the most sudden change is resolved 4096 times finer [eV/Å]; about 0 for smooth forces"""
    place: float
    """Place of that change along the path [Å]"""
    work_error: float
    """Largest difference between the work of the forces and the change of the energy [eV]"""
    places: NDArray[np.float64]
    """Points of the path [Å]"""
    forces: NDArray[np.float64]
    """Forces on the moving atom at these points [n_points, 3] eV/Å"""

    def columns(self, reference: Smoothness | None) -> dict[str, float]:
        """Jump of the force [eV/Å], error of the work [eV], and error of the force against a reference [eV/Å]."""
        own = {"path_discontinuity": self.discontinuity, "path_work_error": self.work_error}
        if reference is None:
            return own
        lengths = np.linalg.norm(self.forces - reference.forces, axis=1)
        return {**own, "path_force_error": float(np.sqrt(np.mean(lengths**2)))}


def smoothness(atoms: Atoms, calculator: Any, length: float = 0.8, n_points: int = 161) -> Smoothness:
    """Smoothness of the forces while the first atom of `atoms` moves by `length` Å in a straight line.

    The change of all forces between neighbouring points is compared with the changes beside it. Where it exceeds them
    most, the interval is halved again and again, on the side of the larger change: in smooth forces the change
    shrinks with the interval, and at a jump it stays.
    """

    def at(place: float) -> tuple[float, NDArray[np.float64]]:
        moved = atoms.copy()
        moved.positions[0] += place * DIRECTION
        moved.calc = calculator
        return float(moved.get_potential_energy()), np.array(moved.get_forces())

    places = np.linspace(0.0, length, n_points)
    energies, forces = (np.array(each) for each in zip(*map(at, places)))
    changes = _change(forces[1:], forces[:-1])
    first, last = max(changes[1], 2 * changes[1] - changes[2]), max(changes[-2], 2 * changes[-2] - changes[-3])
    beside = np.maximum([first, *changes[:-1]], [*changes[1:], last])
    k = int(np.argmax(changes - beside))
    low, high, below, above = places[k], places[k + 1], forces[k], forces[k + 1]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        between = at(middle)[1]
        if _change(between, below) >= _change(above, between):
            high, above = middle, between
        else:
            low, below = middle, between
    power = forces[:, 0] @ DIRECTION
    work = np.concatenate([[0.0], np.cumsum((power[1:] + power[:-1]) / 2 * np.diff(places))])
    return Smoothness(
        largest_jump=float(changes.max()),
        step=float(places[1]),
        discontinuity=float(_change(above, below)),
        place=float((low + high) / 2),
        work_error=float(np.abs(work + energies - energies[0]).max()),
        places=places,
        forces=forces[:, 0],
    )


def _change(a: NDArray[np.float64], b: NDArray[np.float64]) -> Any:
    """Largest change of the force on an atom [...] between forces [..., n_atoms, 3]."""
    return np.linalg.norm(a - b, axis=-1).max(axis=-1)
