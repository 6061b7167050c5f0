"""The ASE calculator: consistent derivatives, ASE's units and order, nothing stale."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.stress import voigt_6_to_full_3x3_stress

import matscale
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import DataError
from matscale.core.inference.calculator import PotentialCalculator
from matscale.core.inference.predict import predict_batch, prepare
from matscale.core.runs.record import Run

MakeRun = Callable[..., Run]
TINY = {"hidden": 8, "filters": 8, "n_radial": 8, "n_layers": 2, "cutoff": 4.0}


@pytest.fixture
def schnet(make_run: MakeRun) -> PotentialCalculator:
    return matscale.calculator(make_run("schnet", **TINY).path, dtype="float64")


@pytest.fixture
def skewed(rng: np.random.Generator) -> Atoms:
    """A triclinic alloy without symmetry, so that no component of the stress vanishes."""
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[:2] = "AlNi"
    atoms.set_cell(atoms.cell @ (np.eye(3) + 0.1 * rng.standard_normal((3, 3))), scale_atoms=True)
    atoms.rattle(0.1, rng=rng)
    return atoms


def test_forces_are_minus_the_slope_of_the_energy(schnet: PotentialCalculator, skewed: Atoms) -> None:
    skewed.calc = schnet
    forces = skewed.get_forces()
    assert np.abs(forces).max() > 1e-2
    np.testing.assert_allclose(forces, calculate_numerical_forces(skewed, eps=1e-4), atol=1e-6)


def test_stress_is_the_slope_per_volume_in_voigt_order(schnet: PotentialCalculator, skewed: Atoms) -> None:
    skewed.calc = schnet
    stress = skewed.get_stress()
    assert stress.shape == (6,)
    assert np.abs(stress).min() > 1e-5
    np.testing.assert_allclose(stress, calculate_numerical_stress(skewed, eps=1e-5), atol=1e-7)


def test_tension_is_positive(schnet: PotentialCalculator, skewed: Atoms) -> None:
    skewed.calc = schnet
    energies = []
    for factor in (0.999, 1.001):
        scaled = skewed.copy()
        scaled.set_cell(factor * skewed.cell, scale_atoms=True)
        scaled.calc = schnet
        energies.append(scaled.get_potential_energy())
    slope = (energies[1] - energies[0]) / 0.002 / skewed.get_volume()  # = trace of the stress
    assert np.trace(voigt_6_to_full_3x3_stress(skewed.get_stress())) == pytest.approx(slope, rel=1e-3)


def test_the_energy_holds_the_references(make_run: MakeRun, schnet: PotentialCalculator) -> None:
    schnet.potential.isolated = True
    far = Atoms("Cu", cell=[30, 30, 30], pbc=True, calculator=schnet)  # no neighbour: the same for any geometry
    far.get_potential_energy()
    assert far.calc.results["free_energy"] == far.get_potential_energy()
    reference = float(schnet.potential.references[29])
    assert reference != 0.0
    two = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 15]], cell=[30, 30, 30], pbc=True, calculator=schnet)
    assert two.get_potential_energy() == pytest.approx(2 * far.get_potential_energy(), rel=1e-12)


def test_nothing_stale_is_returned(schnet: PotentialCalculator, skewed: Atoms) -> None:
    skewed.calc = schnet
    before = skewed.get_potential_energy(), skewed.get_stress()
    skewed.positions[0] += 0.2
    assert skewed.get_potential_energy() != before[0]
    skewed.symbols[3] = "Al"
    changed = skewed.get_potential_energy()
    skewed.pbc = False
    assert skewed.get_potential_energy() != changed
    fresh = skewed.copy()
    fresh.calc = PotentialCalculator(schnet.potential)
    np.testing.assert_array_equal(skewed.get_forces(), fresh.get_forces())


def test_an_unseen_element_is_refused_by_name_and_leaves_no_results(schnet: PotentialCalculator, skewed: Atoms) -> None:
    skewed.calc = schnet
    skewed.get_potential_energy()
    skewed.symbols[0] = "Au"
    with pytest.raises(DataError, match=r"Au \(Z = 79\)"):
        skewed.get_potential_energy()
    assert not schnet.results


def test_a_molecule_has_forces_and_no_stress(schnet: PotentialCalculator) -> None:
    molecule = Atoms("AlCu", positions=[[0, 0, 0], [0, 0, 2.3]], calculator=schnet)
    assert np.abs(molecule.get_forces()).max() > 1e-3
    with pytest.raises(PropertyNotImplementedError, match="three lattice vectors"):
        molecule.get_stress()


def test_a_calculator_agrees_with_a_batch_of_the_same_structures(
    schnet: PotentialCalculator, alloys: PackedDataset
) -> None:
    structures = [alloys[k] for k in range(4)]
    together = predict_batch(schnet.potential, [prepare(schnet.potential, s) for s in structures])
    for structure, prediction in zip(structures, together):
        atoms = structure.to_ase()
        atoms.calc = schnet
        assert atoms.get_potential_energy() == pytest.approx(prediction.energy, rel=1e-12)
        np.testing.assert_allclose(atoms.get_forces(), prediction.forces, atol=1e-12)
        np.testing.assert_allclose(voigt_6_to_full_3x3_stress(atoms.get_stress()), prediction.stress, atol=1e-12)


def test_a_direct_model_gives_its_own_forces_and_stress(make_run: MakeRun, skewed: Atoms) -> None:
    skewed.calc = matscale.calculator(make_run("fcn", hidden=8, embedding=8, depth=1))
    assert skewed.calc.has_stress
    assert skewed.get_forces().shape == (4, 3)
    assert np.isfinite(skewed.get_stress()).all()


def test_a_model_without_stress_says_that_it_has_none(make_run: MakeRun, skewed: Atoms) -> None:
    potential = matscale.load(make_run("fcn", hidden=8, embedding=8, depth=1))
    outputs = potential.model.forward

    def without_stress(batch: object) -> object:
        from dataclasses import replace

        return replace(outputs(batch), stress=None)

    potential.model.forward = without_stress  # type: ignore[method-assign, assignment]
    skewed.calc = PotentialCalculator(potential)
    assert "stress" not in skewed.calc.implemented_properties
    assert skewed.get_forces().shape == (4, 3)
    with pytest.raises(PropertyNotImplementedError):
        skewed.get_stress()


def test_a_structure_relaxes_with_ase(schnet: PotentialCalculator, skewed: Atoms) -> None:
    from ase.optimize import BFGS

    skewed.calc = schnet
    before = skewed.get_potential_energy()
    BFGS(skewed, logfile=None).run(fmax=0.01, steps=5)
    assert skewed.get_potential_energy() < before
