"""Phonon frequencies of a crystal by finite displacements, with phonopy (optional: the extra `phonons`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from matscale.core.errors import PluginError
from matscale.core.properties.crystals import conventional_matrix


@dataclass(frozen=True)
class Phonons:
    """Phonon frequencies along the path of the Brillouin zone that ASE chooses for the lattice."""

    frequencies: NDArray[np.float64]
    """Frequencies [n_q, n_branches] THz; a negative number stands for an imaginary frequency"""
    highest: float
    """Highest frequency [THz]"""
    lowest: float
    """Lowest frequency [THz]: clearly below 0 if the crystal is not stable"""
    points: NDArray[np.float64]
    """Wave vectors [n_q, 3] in units of the reciprocal primitive cell"""
    distances: NDArray[np.float64]
    """Place of each wave vector along the path [1/Å]"""
    labels: list[tuple[float, str]]
    """Place and name of each special point"""

    def columns(self, reference: Phonons | None) -> dict[str, float]:
        """Root mean square error of the frequencies against a reference on the same path [THz]."""
        if reference is None:
            return {}
        return {"phonon_error": float(np.sqrt(np.mean((self.frequencies - reference.frequencies) ** 2)))}


def phonons(
    atoms: Atoms, calculator: Any, repeats: int = 2, displacement: float = 0.01, n_points: int = 100, points: Any = None
) -> Phonons:
    """Phonon frequencies of a cubic crystal, by displacements of ± `displacement` Å in a supercell.

    `atoms` is a primitive cell at zero pressure; the supercell has `repeats` conventional cells along each axis.
    `points` [n_q, 3] are wave vectors in units of the reciprocal primitive cell; the default is a path through the
    special points. Symmetry is not used, and forces are not corrected, so that a model which breaks a symmetry shows
    it: acoustic frequencies at Γ are 0 only if the forces do not change when all atoms move together. Source of the
    method: Parlinski, Li and Kawazoe, Phys. Rev. Lett. 78, 4063 (1997). Raises PluginError if phonopy is not installed.
    """
    try:
        from phonopy import Phonopy  # optional: phonopy
        from phonopy.structure.atoms import PhonopyAtoms
    except ImportError:
        raise PluginError(
            'Phonons are computed with phonopy, which is not installed: pip install "matscale[phonons]". Or leave '
            "phonons out: --only eos,elastic,nve,path,diatomic."
        ) from None
    cell = PhonopyAtoms(
        symbols=list(atoms.symbols), cell=atoms.cell.array, scaled_positions=atoms.get_scaled_positions()
    )
    # phonopy has lattice vectors as columns in matrices of supercells.
    phonon: Any = Phonopy(cell, repeats * conventional_matrix(atoms).T, primitive_matrix=np.eye(3), is_symmetry=False)
    phonon.generate_displacements(distance=displacement, is_plusminus=True)
    phonon.forces = np.array([_forces(each, calculator) for each in phonon.supercells_with_displacements])
    phonon.produce_force_constants()
    if points is None:
        path = atoms.cell.bandpath(npoints=n_points)
        distances, places, names = path.get_linear_kpoint_axis()
        points = path.kpts
    else:
        distances, places, names = np.arange(len(points), dtype=float), [], []
    phonon.run_qpoints(points)
    frequencies = np.array(phonon.qpoints.frequencies)
    labels = [(float(place), "Γ" if name == "G" else str(name)) for place, name in zip(places, names)]
    lowest, highest = float(frequencies.min()), float(frequencies.max())
    return Phonons(frequencies, highest, lowest, np.asarray(points), np.asarray(distances), labels)


def _forces(cell: Any, calculator: Any) -> NDArray[np.float64]:
    atoms = Atoms(list(cell.symbols), cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)
    atoms.calc = calculator
    return np.array(atoms.get_forces())
