"""Built-in cubic crystals on which properties are measured, with lattice constants from experiments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.symbols import Symbols
from numpy.typing import NDArray

from matscale.core.errors import ConfigError, did_you_mean

CRYSTALS = {
    "Al": ("fcc", 4.05), "Ni": ("fcc", 3.52), "Cu": ("fcc", 3.61), "Pd": ("fcc", 3.89), "Ag": ("fcc", 4.09),
    "Pt": ("fcc", 3.92), "Au": ("fcc", 4.08), "Na": ("bcc", 4.23), "Fe": ("bcc", 2.87), "W": ("bcc", 3.16),
    "C": ("diamond", 3.57), "Si": ("diamond", 5.43), "Ge": ("diamond", 5.66), "NaCl": ("rocksalt", 5.64),
    "MgO": ("rocksalt", 4.21), "GaAs": ("zincblende", 5.65), "CsCl": ("cesiumchloride", 4.12),
}  # fmt: skip
"""Lattice and lattice constant [Å] by formula (Kittel, Introduction to Solid State Physics, 8th edition)."""


def crystal(name: str) -> Atoms:
    """Make the primitive cell of a built-in crystal. Raises ConfigError for an unknown name.

    >>> crystal("Cu").cell.volume.round(2), len(crystal("NaCl"))
    (np.float64(11.76), 2)
    """
    if name not in CRYSTALS:
        raise ConfigError(f"There is no built-in crystal {name!r}. {did_you_mean(name, CRYSTALS)}")
    lattice, a = CRYSTALS[name]
    made: Atoms = bulk(name, lattice, a=a)
    return made


def elements_of(name: str) -> set[str]:
    """Chemical symbols of the elements in a formula.

    >>> sorted(elements_of("NaCl"))
    ['Cl', 'Na']
    """
    return set(Symbols.fromsymbols(name))


def possible(elements: Iterable[str]) -> list[str]:
    """Names of the built-in crystals that consist of the given elements only.

    >>> possible(["Cu", "Na", "Cl"])
    ['Cu', 'Na', 'NaCl']
    """
    return [name for name in CRYSTALS if elements_of(name) <= set(elements)]


def lattice_constant(atoms: Atoms) -> float:
    """Edge [Å] of the conventional cell of a cubic crystal, from its primitive cell in the orientation of ASE."""
    return float(1.0 / np.abs(np.linalg.inv(atoms.cell.array)).max())


def conventional_matrix(atoms: Atoms) -> NDArray[np.int64]:
    """Integer matrix [3, 3] whose product with the primitive cell is the conventional cell, a cube."""
    return np.rint(lattice_constant(atoms) * np.linalg.inv(atoms.cell.array)).astype(np.int64)


def supercell(atoms: Atoms, repeats: int = 2) -> Atoms:
    """Repeat the conventional cell of a cubic crystal `repeats` times along each axis.

    >>> len(supercell(crystal("Cu"))), len(supercell(crystal("Si")))
    (32, 64)
    """
    made: Atoms = make_supercell(atoms, repeats * conventional_matrix(atoms))
    return made


def deformed(atoms: Atoms, strain: Any, calculator: Any) -> Atoms:
    """Copy of a crystal under a small strain [3, 3], or a number for an isotropic one, with a calculator."""
    copy: Atoms = atoms.copy()
    matrix = strain * np.eye(3) if np.ndim(strain) == 0 else strain
    copy.set_cell(atoms.cell.array @ (np.eye(3) + matrix), scale_atoms=True)
    copy.calc = calculator
    return copy
