"""Rattling, straining and dynamics obey the temperature they are given."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.units import kB

from matscale.core.data.synthetic.perturb import langevin, overlaps, rattle, strain


class Springs:
    """Every atom tied to its site by 3 eV/Å²: the equilibrium of dynamics is known."""

    def __init__(self, sites: np.ndarray) -> None:
        self.sites = sites

    def get_forces(self, atoms: Atoms) -> np.ndarray:
        return -3.0 * (atoms.get_positions() - self.sites)


@pytest.mark.parametrize("temperature", [300.0, 1000.0])
def test_rattled_displacements_are_boltzmann_distributed(temperature, rng):
    crystal = bulk("Cu", cubic=True) * 6
    moved = rattle(crystal, temperature, 3.0, rng)
    displacement = moved.get_positions() - crystal.get_positions()
    assert np.mean(displacement**2) == pytest.approx(kB * temperature / 3.0, rel=0.05)
    np.testing.assert_allclose(displacement.mean(axis=0), 0, atol=1e-12)


def test_dynamics_reach_the_temperature_of_their_bath(rng):
    crystal = bulk("Al", cubic=True) * 4
    frames = list(langevin(crystal, Springs(crystal.get_positions()), 800.0, 300, 10, rng))
    assert len(frames) == 30
    displacement = np.array([f.get_positions() for f in frames[10:]]) - crystal.get_positions()
    # <u²> = k_B T / K in equilibrium, whatever the mass and the friction.
    assert np.mean(displacement**2) == pytest.approx(kB * 800 / 3.0, rel=0.08)


def test_dynamics_that_blow_up_end(rng):
    crystal = bulk("Al", cubic=True)
    assert list(langevin(crystal, Springs(crystal.get_positions() + 1000.0), 300.0, 50, 1, rng)) == []


def test_strain_is_symmetric_and_carries_the_atoms_along(rng):
    crystal = bulk("Cu", cubic=True)
    deformed = strain(crystal, 0.02, rng)
    gradient = np.linalg.solve(crystal.cell.array, deformed.cell.array)
    np.testing.assert_allclose(gradient, gradient.T, atol=1e-14)
    assert 1e-3 < np.abs(gradient - np.eye(3)).max() < 0.1
    np.testing.assert_allclose(deformed.get_scaled_positions(), crystal.get_scaled_positions(), atol=1e-14)


def test_a_molecule_cannot_be_strained(rng):
    molecule = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.2]])
    np.testing.assert_array_equal(strain(molecule, 0.1, rng).get_positions(), molecule.get_positions())


def test_an_atom_overlaps_with_its_own_image():
    squeezed = Atoms("Cu", cell=[1.0, 9.0, 9.0], pbc=True)
    assert overlaps(squeezed, 0.7)
    assert not overlaps(Atoms("Cu", cell=[1.0, 9.0, 9.0]), 0.7)


def test_two_atoms_in_one_place_overlap():
    assert overlaps(Atoms("Cu2", positions=np.zeros((2, 3)), cell=[9.0, 9.0, 9.0], pbc=True), 0.7)
