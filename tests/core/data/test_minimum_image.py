"""The minimum image in cells of any shape, by brute force over many images."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from matscale.core.data.neighbors import collate, minimum_image_distance
from matscale.core.data.structure import Structure


def skewed(seed: int, pbc: tuple[bool, bool, bool]) -> tuple[Structure, np.ndarray]:
    """A structure in an equivalent, skewed cell (along periodic axes), and its ordinary cell."""
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(2, 6, 3)) + rng.uniform(-1, 1, (3, 3))
    mixing = np.eye(3, dtype=int)
    for _ in range(4):
        a, b = rng.choice(3, 2, replace=False)
        if pbc[a] and pbc[b]:
            mixing[a] += rng.integers(-3, 4) * mixing[b]
    positions = rng.uniform(-15, 15, (5, 3))
    return Structure(np.full(5, 29), positions, mixing @ cell, np.array(pbc)), cell


@pytest.mark.parametrize("pbc", [(True,) * 3, (True, True, False), (False, True, False), (False,) * 3])
@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_nearest_of_many_images(seed: int, pbc: tuple[bool, bool, bool]) -> None:
    s, cell = skewed(seed, pbc)
    i, j = torch.tensor(list(product(range(5), repeat=2))).T
    spans = [range(-16, 17) if periodic else range(1) for periodic in pbc]
    shifts = np.array(list(product(*spans))) @ cell
    vectors = s.positions[j.numpy()] - s.positions[i.numpy()]
    expected = np.linalg.norm(vectors[:, None] + shifts, axis=-1).min(axis=1)
    assert_close(minimum_image_distance(collate([s], dtype=torch.float64), i, j), torch.from_numpy(expected))


def test_rows_of_open_axes_do_not_matter() -> None:
    positions = np.array([[0.0, 0, 0], [3.5, 0.2, 0.1]])
    found = [
        minimum_image_distance(
            collate([Structure(np.full(2, 29), positions, np.array(cell), np.array([True, False, False]))]),
            torch.tensor([0]),
            torch.tensor([1]),
        )
        for cell in ([[4.0, 0, 0], [0, 0, 0], [0, 0, 0]], [[4.0, 0, 0], [4, 0, 0], [0.1, 0, 0]])
    ]
    assert_close(found[0], torch.tensor([np.sqrt(0.5**2 + 0.2**2 + 0.1**2)]), rtol=1e-6, atol=0)
    assert_close(found[0], found[1])
