"""Elastic constants of a cubic crystal, by finite strains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.optimize import BFGS
from ase.units import GPa

from matscale.core.properties.crystals import deformed

UNIAXIAL = np.diag([1.0, 0.0, 0.0])
ORTHORHOMBIC = np.diag([1.0, -1.0, 0.0])
SHEAR = np.array([[0.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
FORCE = 1e-3
"""Largest force [eV/Å] up to which atoms inside the strained cell are left where they are."""


@dataclass(frozen=True)
class Elastic:
    """Elastic constants of a cubic crystal [GPa]."""

    c11: float
    c12: float
    c44: float

    @property
    def bulk_modulus(self) -> float:
        """Bulk modulus (C11 + 2 C12) / 3 [GPa]."""
        return (self.c11 + 2 * self.c12) / 3

    def columns(self, reference: Elastic | None) -> dict[str, float]:
        """Mean error of the three constants against a reference [%]."""
        if reference is None:
            return {}
        ours, theirs = (np.array([e.c11, e.c12, e.c44]) for e in (self, reference))
        return {"elastic_error": float(100 * np.abs(ours / theirs - 1).mean())}


def elastic_constants(atoms: Atoms, calculator: Any, strain: float = 0.005) -> Elastic:
    """Elastic constants of a cubic crystal, from the curvature of the energy under three kinds of strain.

    `atoms` is a primitive cell at zero pressure. A uniaxial strain gives C11, an orthorhombic one C11 − C12, a shear
    C44: the energy per volume is C11 e²/2, (C11 − C12) e² and C44 e²/2. Each curve has five points up to twice
    `strain`, fitted by a polynomial of fourth degree. Atoms that symmetry does not hold in place are relaxed.
    """

    def energy(matrix: Any) -> float:
        copy = deformed(atoms, matrix, calculator)
        if np.abs(copy.get_forces()).max() > FORCE:
            BFGS(copy, logfile=None).run(fmax=FORCE, steps=100)
        return float(copy.get_potential_energy())

    def curvature(kind: Any) -> float:
        steps = strain * np.arange(-2, 3)
        energies = np.array([energy(e * kind) for e in steps])
        quadratic = np.polyfit(steps / strain, energies - energies[2], 4)[2]
        return float(2 * quadratic / strain**2 / atoms.cell.volume / GPa)

    c11 = curvature(UNIAXIAL)
    return Elastic(c11, c11 - curvature(ORTHORHOMBIC) / 2, curvature(SHEAR))
