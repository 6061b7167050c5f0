"""Structure as read from a file, before it is packed: NumPy arrays in eV and Å."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Voigt order xx yy zz yz xz xy, as (row, column) of the 3×3 tensor."""

CALCULATOR = "calculator:"
"""Prefix in `Structure.info` of the results of a calculator that is attached to the structure."""


def voigt_to_full(voigt: Any) -> NDArray[np.float64]:
    """Convert [..., 6] in the order xx yy zz yz xz xy to symmetric [..., 3, 3].

    >>> voigt_to_full([1, 2, 3, 4, 5, 6]).tolist()
    [[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]]
    """
    v = np.asarray(voigt, dtype=np.float64)
    return v[..., [[0, 5, 4], [5, 1, 3], [4, 3, 2]]]


def full_to_voigt(full: Any) -> NDArray[np.float64]:
    """Convert [..., 3, 3] to [..., 6] in the order xx yy zz yz xz xy; off-diagonal pairs are averaged.

    >>> full_to_voigt([[1, 6, 5], [6, 2, 4], [5, 4, 3]]).tolist()
    [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    """
    s = np.asarray(full, dtype=np.float64)
    return np.stack([0.5 * (s[..., a, b] + s[..., b, a]) for a, b in VOIGT], axis=-1)


def whole_numbers(values: Any) -> NDArray[np.int64]:
    """Convert an array of any kind to atomic numbers. Raises ValueError unless they are small whole numbers.

    >>> whole_numbers([13.0, 8.0]).tolist()
    [13, 8]
    """
    given = np.asarray(values)
    if given.dtype.kind not in "iu":
        given = given.astype(np.float64)
        if not (np.abs(given) < 2**31).all() or (given != np.round(given)).any():  # NaN is not below
            raise ValueError("atomic numbers are not whole numbers")
    return given.astype(np.int64).reshape(-1)


@dataclass
class Structure:
    """Crystal, molecule or cluster, with its labels if it has any.

    >>> cell, pbc = 2.5 * np.eye(3), np.array([True] * 3)
    >>> oxide = Structure(np.array([12, 8]), np.array([[0, 0, 0], [2.1, 0, 0]]), cell, pbc, energy=-11.9)
    >>> oxide.formula, len(oxide), oxide.to_ase().get_potential_energy()
    ('MgO', 2, -11.9)
    """

    atomic_numbers: NDArray[np.int64]
    """[n_atoms]"""
    positions: NDArray[np.float64]
    """[n_atoms, 3] Å; not necessarily inside the cell."""
    cell: NDArray[np.float64]
    """[3, 3] Å, rows are lattice vectors; zeros for missing ones."""
    pbc: NDArray[np.bool_]
    """[3]"""
    energy: float | None = None
    """eV, total."""
    forces: NDArray[np.float64] | None = None
    """[n_atoms, 3] eV/Å"""
    stress: NDArray[np.float64] | None = None
    """[3, 3] eV/Å³, +(1/V) dE/dε: tension is positive."""
    trajectory: str | None = None
    """Name of the trajectory or parent structure; a split keeps structures of one trajectory together."""
    source: str = ""
    """File and position in it, for error messages."""
    info: dict[str, Any] = field(default_factory=dict)
    """Other values of the file for this structure, by key; not packed."""
    per_atom: Sequence[str] = ()
    """Names of the values in `info` that are arrays per atom, since a shape does not distinguish three atoms from a
    vector.
    """
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Metadata of the file for all its structures, such as units; not packed."""
    notes: list[str] = field(default_factory=list)
    """Decisions made while reading, a sentence each; packing counts them and lists them in the manifest."""

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    @property
    def formula(self) -> str:
        """Reduced formula, elements in alphabetical order: `Al2O3`."""
        numbers, counts = np.unique(self.atomic_numbers, return_counts=True)
        unit = int(np.gcd.reduce(counts))
        parts = sorted(zip(_symbols(numbers), (counts // unit).tolist()))
        return "".join(symbol + (str(count) if count > 1 else "") for symbol, count in parts)

    @property
    def group(self) -> str:
        """Group that a split keeps together: the trajectory, or else the reduced formula."""
        return self.trajectory or self.formula

    def to_ase(self) -> Any:
        """Structure as ase.Atoms with a SinglePointCalculator that holds the labels."""
        from ase import Atoms
        from ase.calculators.singlepoint import SinglePointCalculator

        atoms = Atoms(numbers=self.atomic_numbers, positions=self.positions, cell=self.cell, pbc=self.pbc)
        labels: dict[str, Any] = {}
        if self.energy is not None:
            labels["energy"] = self.energy
        if self.forces is not None:
            labels["forces"] = self.forces
        if self.stress is not None:
            labels["stress"] = full_to_voigt(self.stress)
        if labels:
            atoms.calc = SinglePointCalculator(atoms, **labels)
        atoms.info.update(self.info)
        return atoms

    @classmethod
    def from_ase(cls, atoms: Any, source: str = "") -> Structure:
        """Make a structure with the geometry of an ase.Atoms; `matscale.core.data.sources.labels` finds its labels."""
        return cls(
            atomic_numbers=atoms.get_atomic_numbers().astype(np.int64),
            positions=np.array(atoms.get_positions(), dtype=np.float64),
            cell=np.array(atoms.cell.array, dtype=np.float64),
            pbc=np.array(atoms.pbc, dtype=bool),
            source=source,
        )


def _symbols(atomic_numbers: NDArray[np.int64]) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[z] for z in atomic_numbers]
