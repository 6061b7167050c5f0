"""Noise on positions: the same whenever it is drawn, undone by the forces, with the edges of where atoms are then."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.testing import assert_close

from crystals import random_structures
from matscale.core.data.augment import Noise
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate

GRAPH = Graph.radius(4.0)


def batch_of(n: int, first: int = 0) -> AtomicBatch:
    batch = collate(random_structures(first + n)[first:], dtype=torch.float64)
    return replace(batch, index=torch.arange(first, first + n))


def test_forces_take_the_atoms_back() -> None:
    batch = batch_of(6)
    noisy = Noise(0.2).displaced(batch, GRAPH, 0, 3)
    assert_close(noisy.positions + noisy.forces, batch.positions)
    assert noisy.energy is None
    assert noisy.stress is None


def test_edges_are_those_of_the_displaced_atoms() -> None:
    noisy = Noise(0.3).displaced(batch_of(6), GRAPH, 0)
    assert noisy.n_edges > 0
    assert noisy.edge_distance().max() < 4.0
    members = [Noise(0.3).displaced(batch_of(1, k), GRAPH, 0) for k in range(6)]
    assert torch.equal(AtomicBatch.join([replace(m, index=m.index) for m in members]).edge_index, noisy.edge_index)


def test_noise_is_a_function_of_words_and_structure_whatever_else_is_in_the_batch() -> None:
    noise, rows, counts = Noise(0.1), np.array([4, 9, 2]), np.array([3, 12, 1])
    whole = noise.displacements(rows, counts, 1, 5)
    assert (noise.displacements(rows[:1], counts[:1], 1, 5) == whole[:3]).all()
    assert (noise.displacements(rows[::-1], counts[::-1], 1, 5)[-3:] == whole[:3]).all()
    for words in ((1, 6), (2, 5)):
        assert abs(noise.displacements(rows, counts, *words) - whole)[:15].min() > 0


def test_noise_is_normal_and_moves_no_structure_as_a_whole() -> None:
    counts = np.full(500, 40)
    drawn = Noise(0.1).displacements(np.arange(500), counts, 0).reshape(500, 40, 3)
    assert abs(drawn.sum(axis=1)).max() < 1e-12
    assert abs(drawn.std() / 0.1 - 1) < 0.01
    assert abs(((drawn / 0.1) ** 4).mean() - 3) < 0.05
    pairs = Noise(0.1).displacements(np.arange(5000), np.full(5000, 2), 0)
    assert abs(pairs.std() / 0.1 - 1) < 0.01
    assert (Noise(0.1).displacements(np.arange(3), np.ones(3, int), 0) == 0).all()
