"""Every reason for which a structure is left out, and that sound ones are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase.geometry import get_distances

from matscale.core.data.sources.labels import Unusable
from matscale.core.data.sources.screen import screen
from matscale.core.data.structure import Structure

SOUND = Structure(
    atomic_numbers=np.array([11, 17]),
    positions=np.array([[0.0, 0, 0], [2.8, 0, 0]]),
    cell=np.diag([5.6, 4.0, 4.0]),
    pbc=np.ones(3, dtype=bool),
    energy=-6.0,
    forces=np.zeros((2, 3)),
    stress=np.zeros((3, 3)),
)
NAN3, INF = np.full((2, 3), np.nan), float("inf")

FAULTS = {
    "no atoms": {"atomic_numbers": np.zeros(0, int), "positions": np.zeros((0, 3)), "forces": np.zeros((0, 3))},
    "unknown element": {"atomic_numbers": np.array([0, 17])},
    "non-finite energy": {"energy": INF},
    "non-finite forces": {"forces": NAN3},
    "non-finite stress": {"stress": np.diag([np.nan, 0, 0])},
    "non-finite positions": {"positions": NAN3},
    "wrong number of forces": {"forces": np.zeros((3, 3))},
    "missing cell": {"cell": np.diag([5.6, 4.0, 0.0])},
    "absurd coordinates": {"positions": np.array([[1e17, 0, 0], [2.0, 2.0, 0.0]])},
    "absurd volume": {"cell": np.array([[5.6, 0, 0], [0, 4, 0], [5.6, 4, 0]])},
    "overlapping atoms": {"positions": np.array([[0.0, 0, 0], [5.55, 0, 0]])},
}


@pytest.mark.parametrize(("reason", "change"), FAULTS.items(), ids=FAULTS)
def test_an_unusable_structure_is_refused_with_its_reason(reason, change):
    screen(SOUND)
    with pytest.raises(Unusable) as fault:
        screen(replace(SOUND, **change))
    assert fault.value.reason == reason


def test_infinities_that_cancel_are_found():
    forces = np.array([[np.inf, 0, 0], [-np.inf, 0, 0]])
    with pytest.raises(Unusable, match="non-finite forces: 2 of 6 values"):
        screen(replace(SOUND, forces=forces))


@pytest.mark.parametrize("size", [0.3, 60.0])
def test_a_cell_far_too_small_or_large_is_absurd(size):
    with pytest.raises(Unusable, match="absurd volume"):
        screen(replace(SOUND, cell=np.eye(3) * size, positions=SOUND.positions * size / 6))


def test_an_atom_on_its_own_image_overlaps():
    with pytest.raises(Unusable, match="overlapping atoms"):
        screen(replace(SOUND, cell=np.diag([0.15, 50.0, 50.0])))


@pytest.mark.parametrize("pbc", [(False,) * 3, (True, True, False), (True, False, False)])
def test_molecules_slabs_and_wires_need_no_full_cell(pbc):
    cell = np.diag([5.6, 4.0, 4.0]) * np.array(pbc)[:, None]
    screen(replace(SOUND, pbc=np.array(pbc), cell=cell))
    close = np.array([[0.0, 0, 0], [0, 0, 0.05]])
    with pytest.raises(Unusable, match=r"atoms 0 and 1 are 0\.05 Å apart"):
        screen(replace(SOUND, pbc=np.array(pbc), cell=cell, positions=close))


def test_atoms_that_meet_only_through_an_axis_without_images_do_not_overlap():
    positions = np.array([[0.0, 0, 0], [5.55, 0, 0]])
    screen(replace(SOUND, pbc=np.array([False, True, True]), positions=positions))


@pytest.mark.parametrize("n", [20, 120])
@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_overlaps_are_found_as_by_brute_force(rng, n, pbc):
    found = set()
    for _ in range(60):
        cell = np.eye(3) * 2.2 + rng.uniform(-0.7, 0.7, (3, 3))
        # Outside the cell only along periodic axes, so that atoms are as dense in all cases.
        positions = (rng.uniform(0, 1, (n, 3)) + rng.integers(-1, 2, (n, 3)) * np.array(pbc)) @ cell
        if n > 100:
            cell, positions = cell * 3, positions * 3
        distances = get_distances(positions, cell=cell, pbc=pbc)[1][np.triu_indices(n, 1)]
        s = Structure(np.full(n, 1), positions, cell, np.array(pbc))
        overlap = False
        try:
            screen(s)
        except Unusable as fault:
            overlap = fault.reason == "overlapping atoms"
            if not overlap:
                continue
        assert overlap == (distances.min() < 0.1)
        found.add(overlap)
    assert found == {True, False}
