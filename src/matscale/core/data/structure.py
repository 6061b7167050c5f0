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
"""Prefix of the keys in `Structure.info` that hold results of the ASE calculator attached to the structure."""


def voigt_to_full(voigt: Any) -> NDArray[np.float64]:
    """Convert tensors from Voigt form [..., 6] (xx yy zz yz xz xy) to symmetric matrices [..., 3, 3].

    >>> voigt_to_full([1, 2, 3, 4, 5, 6]).tolist()
    [[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]]
    """
    v = np.asarray(voigt, dtype=np.float64)
    return v[..., [[0, 5, 4], [5, 1, 3], [4, 3, 2]]]


def full_to_voigt(full: Any) -> NDArray[np.float64]:
    """Convert matrices [..., 3, 3] to Voigt form [..., 6] (xx yy zz yz xz xy), averaging off-diagonal pairs.

    >>> full_to_voigt([[1, 6, 5], [6, 2, 4], [5, 4, 3]]).tolist()
    [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    """
    s = np.asarray(full, dtype=np.float64)
    return np.stack([0.5 * (s[..., a, b] + s[..., b, a]) for a, b in VOIGT], axis=-1)


def whole_numbers(values: Any) -> NDArray[np.int64]:
    """Convert an array of numbers to atomic numbers [n]. Raises ValueError for a float that is not a whole number.

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
    """[3, 3] Å, rows are lattice vectors; a missing vector is zero."""
    pbc: NDArray[np.bool_]
    """[3], whether the structure is periodic along each lattice vector."""
    energy: float | None = None
    """Total energy [eV]."""
    forces: NDArray[np.float64] | None = None
    """[n_atoms, 3] eV/Å"""
    stress: NDArray[np.float64] | None = None
    """[3, 3] eV/Å³, +(1/V) dE/dε: tension is positive."""
    trajectory: str | None = None
    """Name of the trajectory or parent structure; a split keeps structures of one trajectory together."""
    source: str = ""
    """For error messages: the file that holds the structure, and the position of the structure in it."""
    info: dict[str, Any] = field(default_factory=dict)
    """Other values that the file gives for this structure, by key; they are not packed."""
    per_atom: Sequence[str] = ()
    """Keys of the per-atom arrays in `info`.

    In a structure of three atoms, the shape of an array would not tell whether it has a value per atom or is a vector.
    """
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Metadata that the file gives for all its structures, such as units; they are not packed."""
    notes: list[str] = field(default_factory=list)
    """Decisions made while the structure was read, one sentence each; packing counts and lists them in the manifest."""

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
        """Name of the group that a split keeps together: the trajectory, or else the reduced formula."""
        return self.trajectory or self.formula

    def to_ase(self) -> Any:
        """Convert to ase.Atoms, with the labels in a SinglePointCalculator."""
        from ase import Atoms  # start-up: ase
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
        """Make a structure with the geometry of an ase.Atoms, without labels.

        `matscale.core.data.sources.reader.from_ase` keeps all other values, too.
        """
        return cls(
            atomic_numbers=atoms.get_atomic_numbers().astype(np.int64),
            positions=np.array(atoms.get_positions(), dtype=np.float64),
            cell=np.array(atoms.cell.array, dtype=np.float64),
            pbc=np.array(atoms.pbc, dtype=bool),
            source=source,
        )


def _symbols(atomic_numbers: NDArray[np.int64]) -> list[str]:
    from ase.data import chemical_symbols  # start-up: ase

    return [chemical_symbols[z] for z in atomic_numbers]
