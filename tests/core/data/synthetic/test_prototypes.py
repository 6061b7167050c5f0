"""Parents: right atoms in the right places, at Vegard's volume."""

from __future__ import annotations

import numpy as np
import pytest
from ase.neighborlist import neighbor_list

from matscale.core.data.synthetic.perturb import overlaps
from matscale.core.data.synthetic.prototypes import PROTOTYPES, hermite, parent, radii, reduced

METALS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")


@pytest.mark.parametrize("name", PROTOTYPES)
def test_parents_have_one_to_max_atoms_and_never_overlap(name, rng):
    sizes = []
    for _ in range(20):
        atoms = parent(name, METALS, 12, rng)
        sizes.append(len(atoms))
        assert atoms.pbc.all()
        assert atoms.cell.volume > 0
        assert not overlaps(atoms, 0.79)
    assert max(sizes) <= 12
    assert len(set(sizes)) > 2


@pytest.mark.parametrize(("name", "neighbors"), [("fcc", 12), ("hcp", 12), ("bcc", 8)])
def test_every_atom_has_the_neighbours_of_its_lattice(name, neighbors, rng):
    for _ in range(5):
        atoms = parent(name, ("Cu",), 16, rng)
        distance = neighbor_list("d", atoms, 4.0)
        nearest = neighbor_list("i", atoms, distance.min() * 1.05)
        assert (np.bincount(nearest) == neighbors).all()


def test_copper_has_the_volume_of_its_crystal(rng):
    atoms = parent("fcc", ("Cu",), 8, rng)
    assert atoms.cell.volume / len(atoms) == pytest.approx(3.61**3 / 4)


def test_radii_of_an_alloy_mix_linearly(rng):
    atoms = parent("l10", ("Cu", "Au"), 2, rng)
    mean = radii(np.array([29, 79])).mean()
    assert atoms.cell.volume == pytest.approx(2 * np.sqrt(32) * mean**3)


def test_l12_is_one_to_three_with_only_unlike_neighbours_of_the_minority(rng):
    atoms = parent("l12", ("Cu", "Au"), 32, rng)
    numbers, counts = np.unique(atoms.numbers, return_counts=True)
    assert counts.max() == 3 * counts.min()
    minority = numbers[counts.argmin()]
    i, j, d = neighbor_list("ijd", atoms, 3.2)
    near = (d < d.min() * 1.05) & (atoms.numbers[i] == minority)
    assert near.any()
    assert (atoms.numbers[j[near]] != minority).all()


@pytest.mark.parametrize("determinant", [1, 2, 6, 7, 12])
def test_a_hermite_matrix_has_its_determinant(determinant, rng):
    seen = {tuple(hermite(determinant, rng).ravel()) for _ in range(30)}
    assert {round(np.linalg.det(np.reshape(m, (3, 3)))) for m in seen} == {determinant}
    assert determinant == 1 or len(seen) > 3


def test_a_reduced_lattice_is_the_same_lattice_in_shorter_vectors(rng):
    metric = np.diag([1_000_000, 2_000_000, 3_000_000])
    for _ in range(20):
        given = hermite(24, rng)
        short = reduced(given, metric)
        assert round(abs(np.linalg.det(short))) == 24
        change = short @ np.linalg.inv(given)
        np.testing.assert_allclose(change, np.round(change), atol=1e-9)
        lengths, before = (np.diag(m @ metric @ m.T) for m in (short, given))
        assert (lengths <= before).all()


def test_every_element_has_a_radius():
    values = radii(np.arange(1, 104))
    assert ((values > 0.2) & (values < 3.0)).all()
