"""Properties of crystals by ASE's EMT, against values computed here in another way."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.units import GPa, _amu, _e

from matscale.core.errors import ConfigError, DataError
from matscale.core.properties.crystals import CRYSTALS, conventional_matrix, crystal, deformed, lattice_constant
from matscale.core.properties.diatomic import diatomic_curve
from matscale.core.properties.elastic import elastic_constants
from matscale.core.properties.eos import equation_of_state
from matscale.core.properties.measure import Model, chosen, columns, crystals_for, measure
from matscale.core.properties.nve import energy_drift
from matscale.core.properties.path import smoothness
from matscale.core.properties.phonons import phonons


class Steps(Calculator):
    """Springs to the sites of a lattice, whose forces jump by `jump` eV/Å where the first atom has moved 0.3 Å."""

    implemented_properties: ClassVar = ["energy", "forces"]

    def __init__(self, sites: Atoms, jump: float) -> None:
        super().__init__()
        self.sites, self.jump = sites.positions.copy(), jump

    def calculate(self, atoms: Any = None, properties: Any = (), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        moved = self.atoms.positions - self.sites
        forces = -2.0 * moved
        if np.linalg.norm(moved[0]) > 0.3:
            forces[0, 0] += self.jump
        self.results = {"energy": float((moved**2).sum()), "forces": forces}


def at_rest(name: str) -> Atoms:
    atoms = crystal(name)
    found = equation_of_state(atoms, EMT())
    return deformed(atoms, found.lattice_constant / lattice_constant(atoms) - 1, EMT())


@pytest.mark.parametrize("name", ["Cu", "Al", "Ag"])
def test_the_bulk_modulus_is_the_curvature_of_the_energy_by_finite_differences(name: str) -> None:
    found = equation_of_state(crystal(name), EMT())
    volume, h = found.lattice_constant**3 / 4, 1e-3

    def energy(v: float) -> float:
        atoms = bulk(name, "fcc", a=(4 * v) ** (1 / 3))
        atoms.calc = EMT()
        return float(atoms.get_potential_energy())

    low, here, high = (energy(volume * (1 + k * h)) for k in (-1, 0, 1))
    assert found.energy == pytest.approx(here, abs=1e-5)
    assert abs(high - low) < 2e-2 * (high + low - 2 * here) / h  # the pressure is 0
    assert found.bulk_modulus == pytest.approx((low - 2 * here + high) / h**2 / volume / GPa, rel=5e-3)


@pytest.mark.parametrize("name", ["Cu", "Al"])
def test_elastic_constants_have_the_bulk_modulus_of_the_equation_of_state(name: str) -> None:
    found = elastic_constants(at_rest(name), EMT())
    assert found.bulk_modulus == pytest.approx(equation_of_state(crystal(name), EMT()).bulk_modulus, rel=0.01)
    assert found.c11 > found.c12 > 0  # Born's conditions
    assert found.c44 > 0


def test_elastic_constants_are_the_slope_of_the_stress() -> None:
    atoms, e = at_rest("Cu"), 1e-3
    stretched, sheared = np.diag([e, 0, 0]), np.array([[0, 0, 0], [0, 0, e / 2], [0, e / 2, 0]])
    xx = [deformed(atoms, sign * stretched, EMT()).get_stress() for sign in (1, -1)]
    yz = [deformed(atoms, sign * sheared, EMT()).get_stress() for sign in (1, -1)]
    found = elastic_constants(atoms, EMT())
    assert found.c11 == pytest.approx((xx[0] - xx[1])[0] / (2 * e) / GPa, rel=0.01)
    assert found.c12 == pytest.approx((xx[0] - xx[1])[1] / (2 * e) / GPa, rel=0.01)
    assert found.c44 == pytest.approx((yz[0] - yz[1])[3] / (2 * e) / GPa, rel=0.01)


def test_phonons_of_copper_vanish_at_gamma_and_equal_frozen_phonons_at_x() -> None:
    pytest.importorskip("phonopy", reason="phonopy is not installed (extra phonons)")
    atoms = at_rest("Cu")
    found = phonons(atoms, EMT(), points=[[0, 0, 0], [0.5, 0.5, 0]])
    assert np.abs(found.frequencies[0]).max() < 1e-3
    # At X, planes of atoms move against each other: two atoms in the conventional cell at z = 0, two at z = a/2.
    cube = bulk("Cu", "fcc", a=lattice_constant(atoms), cubic=True)
    signs = np.where(cube.get_scaled_positions()[:, 2] < 0.25, 1.0, -1.0)
    frozen = []
    for axis in range(3):
        forces = []
        for size in (0.01, -0.01):
            moved = cube.copy()
            moved.positions[:, axis] += size * signs
            moved.calc = EMT()
            forces.append((signs * moved.get_forces()[:, axis]).mean())
        stiffness = -(forces[0] - forces[1]) / 0.02  # eV/Å²
        frozen.append(np.sqrt(stiffness * _e * 1e20 / (63.546 * _amu)) / (2 * np.pi) / 1e12)
    np.testing.assert_allclose(found.frequencies[1], sorted(frozen), rtol=2e-3)


def test_the_total_energy_drifts_little_and_more_with_a_longer_time_step() -> None:
    atoms = bulk("Cu", cubic=True)
    short, long = (energy_drift(atoms, EMT(), time_step, duration=0.2) for time_step in (2.0, 8.0))
    assert short.time_step == 2.0
    assert short.duration == pytest.approx(0.2)
    assert len(short.energies) == 101
    assert abs(short.drift) < 0.2
    assert short.fluctuation < 0.1
    assert 8 < long.fluctuation / short.fluctuation < 32  # the error of velocity Verlet grows with the square
    assert abs(long.drift) > abs(short.drift)


def test_a_jump_of_the_force_is_found_and_smooth_forces_have_none() -> None:
    atoms = bulk("Cu", cubic=True)
    jumping = smoothness(atoms, Steps(atoms, 0.05))
    assert jumping.discontinuity == pytest.approx(0.05, rel=0.02)
    assert jumping.place == pytest.approx(0.3, abs=1e-4)
    smooth = smoothness(atoms, Steps(atoms, 0.0))
    assert smooth.discontinuity < 1e-5 < smooth.largest_jump
    assert smooth.work_error < 1e-4 < jumping.work_error  # a force that is not the slope of the energy


def test_the_curve_of_two_atoms_has_the_force_of_its_energy() -> None:
    found = diatomic_curve("Cu", EMT())
    slope = -np.gradient(found.energies, found.distances)
    np.testing.assert_allclose(found.forces[5:-1], slope[5:-1], atol=0.2)
    assert found.n_minima == 1
    assert found.energies[-1] == 0
    assert found.depth > 1


def test_built_in_crystals_are_cubic_in_their_conventional_cell() -> None:
    for name in CRYSTALS:
        atoms = crystal(name)
        cube = conventional_matrix(atoms) @ atoms.cell.array
        np.testing.assert_allclose(cube, CRYSTALS[name][1] * np.eye(3), atol=1e-9)


def test_a_model_without_a_minimum_keeps_the_reason_and_has_no_mean() -> None:
    class Repulsive(Steps):
        def calculate(self, atoms: Any = None, properties: Any = (), system_changes: Any = all_changes) -> None:
            Calculator.calculate(self, atoms, properties, system_changes)
            self.results = {"energy": -self.atoms.cell.volume, "forces": np.zeros((len(self.atoms), 3))}

    names = ["eos", "elastic"]
    reference = measure(Model.emt(), ["Cu"], names)
    bad = measure(Model("bad", Repulsive(bulk("Cu"), 0.0), frozenset(["Cu"])), ["Cu"], names)
    assert "no minimum" in bad["Cu"].failed["eos"]
    assert bad["Cu"].failed["elastic"] == bad["Cu"].failed["eos"]
    both = {"Cu": reference["Cu"], "Al": bad["Cu"]}
    assert columns(both, {"Cu": reference["Cu"], "Al": reference["Cu"]})["bulk_modulus_error"] is None
    assert columns(both, reference)["bulk_modulus_error"] == 0  # a crystal that the reference lacks does not count


def test_wrong_names_and_unseen_elements_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no property 'elastc'\. Did you mean 'elastic'"):
        chosen(["eos", "elastc"])
    with pytest.raises(ConfigError, match="no built-in crystal 'Cuu'"):
        crystals_for([Model.emt()], None, ["Cuu"])
    with pytest.raises(DataError, match="NaCl: emt was not trained on Cl, Na"):
        crystals_for([Model.emt()], None, ["NaCl"])
