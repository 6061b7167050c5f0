"""Equation of state of a cubic crystal: lattice constant, energy and bulk modulus at zero pressure."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.eos import EquationOfState
from ase.units import GPa
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from matscale.core.errors import DataError
from matscale.core.properties.crystals import deformed, lattice_constant

SCANNED = np.linspace(-0.12, 0.12, 25)
"""Linear strains at which the minimum of the energy is searched."""


@dataclass(frozen=True)
class Equation:
    """Equation of state of a crystal."""

    lattice_constant: float
    """Edge of the conventional cell at zero pressure [Å]"""
    energy: float
    """Energy at zero pressure [eV/atom]"""
    bulk_modulus: float
    """Bulk modulus at zero pressure [GPa]"""
    volumes: NDArray[np.float64]
    """Volumes to which the equation was fitted [Å³/atom]"""
    energies: NDArray[np.float64]
    """Energies at these volumes [eV/atom]"""

    def columns(self, reference: Equation | None) -> dict[str, float]:
        """Errors of lattice constant and bulk modulus against a reference [%]."""
        if reference is None:
            return {}
        return {
            "lattice_constant_error": 100 * abs(self.lattice_constant / reference.lattice_constant - 1),
            "bulk_modulus_error": 100 * abs(self.bulk_modulus / reference.bulk_modulus - 1),
        }


def equation_of_state(atoms: Atoms, calculator: Any, width: float = 0.04, n_points: int = 11) -> Equation:
    """Equation of state of a cubic crystal, by ASE's fit of Birch and Murnaghan's form.

    The minimum of the energy is searched at lattice constants within 12 % of that of `atoms`; of several minima, the
    nearest is taken. The form is then fitted to `n_points` volumes within the share `width` of the volume at the
    minimum. Atoms keep their fractional coordinates. Raises DataError if there is no minimum.

    >>> from ase.calculators.emt import EMT
    >>> from matscale.core.properties.crystals import crystal
    >>> found = equation_of_state(crystal("Cu"), EMT())
    >>> round(found.lattice_constant, 3), round(found.bulk_modulus)
    (3.59, 134)
    """

    def energy(strain: float) -> float:
        return float(deformed(atoms, strain, calculator).get_potential_energy()) / len(atoms)

    scan = np.array([energy(strain) for strain in SCANNED])
    minima = [k for k in range(1, len(scan) - 1) if scan[k] <= min(scan[k - 1], scan[k + 1])]
    a = lattice_constant(atoms)
    if not minima:
        low, high = a * (1 + SCANNED[0]), a * (1 + SCANNED[-1])
        raise DataError(
            f"{atoms.symbols}: the energy has no minimum at lattice constants from {low:.2f} to {high:.2f} Å. The "
            "model does not describe this crystal: train it longer, or on structures like it."
        )
    k = min(minima, key=lambda k: abs(SCANNED[k]))
    best = minimize_scalar(energy, bounds=(SCANNED[k - 1], SCANNED[k + 1]), method="bounded", options={"xatol": 1e-6})
    shares = np.linspace(1 - width, 1 + width, n_points)
    strains = (1 + best.x) * np.cbrt(shares) - 1
    volumes = atoms.cell.volume / len(atoms) * (1 + strains) ** 3
    energies = np.array([energy(strain) for strain in strains])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy's, on a covariance that is not used
            volume, minimum, modulus = EquationOfState(volumes, energies, eos="birchmurnaghan").fit(warn=False)
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"{atoms.symbols}: no equation of state fits the energies around the minimum ({error})."
        ) from None
    if not (modulus > 0 and volumes[0] <= volume <= volumes[-1]):
        raise DataError(
            f"{atoms.symbols}: the energies around a = {a * (1 + best.x):.3f} Å are not those of a crystal: the fit "
            f"has a bulk modulus of {modulus / GPa:.3g} GPa at {volume:.3g} Å³/atom. Look at the curve on the page."
        )
    constant = a * float(np.cbrt(volume * len(atoms) / atoms.cell.volume))
    return Equation(constant, float(minimum), float(modulus / GPa), volumes, energies)
