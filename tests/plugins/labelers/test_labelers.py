"""Labelers: forces and stress are the derivatives of the energy, with the signs that matscale uses."""

from __future__ import annotations

import builtins
import importlib.util

import numpy as np
import pytest
from ase.calculators.emt import EMT

from matscale.core.data.synthetic.labelers import MPTRJ_ELEMENTS, Labeler, label
from matscale.core.data.synthetic.prototypes import parent
from matscale.core.errors import PluginError
from matscale.core.hosting.host import host
from matscale.plugins.labelers import chgnet, sevennet
from matscale.plugins.labelers.emt import FastEMT


def _rattled(elements: tuple[str, ...], rng: np.random.Generator, n_atoms: int = 6):
    atoms = parent("fcc", elements, n_atoms, rng)
    atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
    return atoms


def _check_derivatives(labeler: Labeler, atoms, rng: np.random.Generator, step: float, tolerance: float) -> None:
    """Energy along a direction of positions, then of strain, by central differences."""

    def energy(displacement: np.ndarray, strain: np.ndarray) -> float:
        moved = atoms.copy()
        moved.positions += displacement
        moved.set_cell(moved.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        moved.calc = labeler.calculator()
        return float(moved.get_potential_energy())

    def towards(values: np.ndarray) -> np.ndarray:
        """A direction along which the energy changes much, yet not that of steepest change alone."""
        noise = rng.normal(size=values.shape)
        noise = noise if values is labelled.forces else 0.5 * (noise + noise.T)
        return values / np.linalg.norm(values) + 0.5 * noise / np.linalg.norm(noise)

    labelled = label(atoms, labeler.calculator())
    no_strain, still = np.zeros((3, 3)), np.zeros_like(atoms.positions)
    moved, strain = towards(labelled.forces), towards(labelled.stress)
    change = (energy(step * moved, no_strain) - energy(-step * moved, no_strain)) / (2 * step)
    assert abs(change) > 0.1  # a labeler of zeros would pass what follows
    assert -np.sum(labelled.forces * moved) == pytest.approx(change, rel=tolerance)
    change = (energy(still, step * strain) - energy(still, -step * strain)) / (2 * step)
    assert abs(change) > 0.1
    assert atoms.get_volume() * np.sum(labelled.stress * strain) == pytest.approx(change, rel=tolerance)


@pytest.mark.parametrize("seed", range(4))
def test_emt_forces_and_stress_are_derivatives_of_its_energy(seed):
    rng = np.random.default_rng(seed)
    atoms = _rattled(("Al", "Cu", "Au"), rng)
    while len(atoms) < 2:
        atoms = _rattled(("Al", "Cu", "Au"), rng)
    _check_derivatives(host().labeler("emt"), atoms, rng, 1e-4, 1e-4)


def test_a_compressed_crystal_has_negative_stress(rng):
    atoms = parent("fcc", ("Cu",), 1, rng)
    atoms.set_cell(atoms.cell * 0.95, scale_atoms=True)
    stress = label(atoms, host().labeler("emt").calculator()).stress
    assert (np.diag(stress) < -0.01).all()


def test_the_fast_neighbour_list_changes_no_label(rng):
    for name in ("fcc", "hcp", "random"):
        atoms = parent(name, ("Ni", "Pd", "Pt"), 9, rng)
        fast, plain = atoms.copy(), atoms
        fast.calc, plain.calc = FastEMT(), EMT()
        assert fast.get_potential_energy() == pytest.approx(plain.get_potential_energy(), abs=1e-11)
        np.testing.assert_allclose(fast.get_forces(), plain.get_forces(), atol=1e-11)
        np.testing.assert_allclose(fast.get_stress(), plain.get_stress(), atol=1e-12)


def test_a_cluster_gets_no_stress(rng):
    atoms = parent("fcc", ("Cu",), 4, rng)
    atoms.pbc = False
    labelled = label(atoms, host().labeler("emt").calculator())
    assert labelled.stress is None
    assert labelled.forces is not None


def test_labels_are_rounded_so_that_machines_agree(rng):
    labelled = label(_rattled(("Cu",), rng), host().labeler("emt").calculator())
    for values, decimals in ((labelled.positions, 6), (labelled.forces, 6), (labelled.stress, 8)):
        np.testing.assert_array_equal(values, np.round(values, decimals))
        assert not np.signbit(values[values == 0]).any()


@pytest.mark.parametrize(("module", "package"), [(chgnet, "chgnet"), (sevennet, "sevenn")])
def test_a_labeler_whose_package_is_missing_says_what_to_install(module, package, monkeypatch):
    real = builtins.__import__

    def absent(name: str, *args, **kwargs):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    for cached in ("_model", "calculator"):
        if hasattr(getattr(module, cached, None), "cache_clear"):
            getattr(module, cached).cache_clear()
    (labeler,) = module.register_labelers()
    with pytest.raises(PluginError, match=r"pip install 'matscale\[labelers\]'"):
        labeler.calculator()


def test_universal_labelers_know_89_elements():
    assert len(MPTRJ_ELEMENTS) == 89
    assert not set(MPTRJ_ELEMENTS) & {"Po", "At", "Rn", "Fr", "Ra", "Am"}
    assert host().labeler("chgnet").labels_by() == "surrogate: chgnet-0.3.0"


@pytest.mark.parametrize(("name", "package"), [("chgnet", "chgnet"), ("sevennet", "sevenn")])
def test_a_universal_labeler_gives_derivatives_of_its_energy(name, package, rng):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'matscale[labelers]'")
    labeler = host().labeler(name)
    atoms = _rattled(("Fe", "Ni"), rng)
    _check_derivatives(labeler, atoms, rng, 2e-3, 2e-2)  # float32 energies: differences are coarse
    again = label(atoms, labeler.calculator())
    np.testing.assert_array_equal(label(atoms, labeler.calculator()).forces, again.forces)
