"""Coordinates far from the origin: predictions keep their digits, and ordinary inputs keep their bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from matscale.core.contract.structures import atom, crystal, metal, molecule, slab
from matscale.core.contract.subject import Subject
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate
from matscale.core.data.store.edge_cache_build import build_cache
from matscale.core.data.store.packed import PackedDataset
from matscale.core.data.store.writer import ShardWriter
from matscale.core.data.structure import Structure
from matscale.core.errors import DataError
from matscale.core.hosting.host import host
from matscale.core.inference.calculator import PotentialCalculator
from matscale.core.inference.predict import predict_batch, prepare

FAR = 100_000.0
"""Å"""
NEAR = (crystal(), metal(), slab(), molecule())
GRAPH = Graph.radius(5.0)


def carried_off(structure: Structure) -> Structure:
    """Every atom about `FAR` away: by lattice vectors of its own along periodic axes, together along open ones."""
    rng, rows = np.random.default_rng(0), structure.cell[structure.pbc]
    whole = np.round(FAR / 10 * rng.uniform(-1, 1, (len(structure), len(rows))))
    away = FAR * np.array([0.3, -0.5, 0.8])
    across = away - away @ np.linalg.pinv(rows) @ rows
    return replace(structure, positions=structure.positions + whole @ rows + across)


def packed(path: Path, structures: list[Structure], precision: str) -> PackedDataset:
    writer = ShardWriter(path, precision=precision)
    writer.append(*structures)
    writer.finish()
    return PackedDataset.open(path)


def from_memory(path: Path, structures: list[Structure]) -> AtomicBatch:
    return collate(structures, GRAPH)


def from_data(path: Path, structures: list[Structure]) -> AtomicBatch:
    return packed(path, structures, "float64").batch(np.arange(len(structures)), GRAPH)


def from_single_precision(path: Path, structures: list[Structure]) -> AtomicBatch:
    return packed(path, structures, "float32").batch(np.arange(len(structures)), GRAPH)


def from_kept_edges(path: Path, structures: list[Structure]) -> AtomicBatch:
    dataset = packed(path, structures, "float64")
    build_cache(dataset, GRAPH)
    return dataset.batch(np.arange(len(structures)), GRAPH)


def sorted_edges(batch: AtomicBatch) -> NDArray[np.float64]:
    """[n_edges, 5] target, source and vector, in an order that does not depend on the images."""
    j, i = batch.edges()
    rows = np.column_stack([i.numpy(), j.numpy(), batch.edge_vec().double().numpy()])
    return rows[np.lexsort(np.round(rows, 3).T[::-1])]


@pytest.mark.parametrize("make", [from_memory, from_data, from_single_precision, from_kept_edges])
def test_edges_of_far_atoms_are_those_of_near_ones(make: Callable[..., AtomicBatch], tmp_path: Path) -> None:
    expected = sorted_edges(collate(list(NEAR), GRAPH, torch.float64))
    found = sorted_edges(make(tmp_path / "far", [carried_off(s) for s in NEAR]))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5  # Å; it was 0.01


@pytest.mark.parametrize("make", [from_memory, from_data, from_kept_edges])
def test_atoms_inside_their_cell_keep_their_bits(make: Callable[..., AtomicBatch], tmp_path: Path) -> None:
    huge = replace(crystal(), cell=300.0 * np.eye(3), positions=np.abs(crystal().positions) + np.array([0, 0, 250.0]))
    structures = [*NEAR, atom(), huge]
    batch = make(tmp_path / "near", structures)
    given = torch.from_numpy(np.concatenate([s.positions for s in structures])).float()
    assert torch.equal(batch.positions, given)


def test_predictions_do_not_depend_on_how_far_away_a_structure_is() -> None:
    subject = Subject(host().architecture("schnet"), host().architecture("schnet").ladder(10_000))
    potential = subject.perturbed().float().eval()
    for near in NEAR:
        still, far = (predict_batch(potential, [prepare(potential, s)])[0] for s in (near, carried_off(near)))
        size = np.abs(still.forces).max()
        assert np.abs(far.forces - still.forces).max() <= 1e-4 * size
        assert far.energy == pytest.approx(still.energy, abs=1e-4)
    calculator = PotentialCalculator(potential)
    for near in (crystal(), slab()):
        apart: list[Any] = []
        for s in (near, carried_off(near)):
            atoms = s.to_ase()
            atoms.calc = calculator
            apart.append(atoms.get_forces())
        assert np.abs(apart[1] - apart[0]).max() < 1e-4 * np.abs(apart[0]).max()


def test_coordinates_that_leave_no_digit_of_a_bond_are_refused() -> None:
    here = metal()
    lost = replace(here, positions=here.positions + np.array([1e17, 0, 0]))
    with pytest.raises(DataError, match=r"1e\+17 Å from the origin"):
        collate([lost], Graph.none(), torch.float64)
