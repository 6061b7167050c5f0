"""Small structures for the contract checks: skewed cells, few atoms, axes that are not periodic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from matscale.core.data.structure import Structure

TRICLINIC_CELL = np.array([[4.3, 0.2, -0.1], [1.1, 4.7, 0.3], [-0.6, 0.9, 5.1]])


def structure(numbers: Any, positions: Any, cell: Any = None, pbc: Any = True) -> Structure:
    """Make a structure; without a cell no axis is periodic."""
    return Structure(
        atomic_numbers=np.asarray(numbers, dtype=np.int64),
        positions=np.asarray(positions, dtype=np.float64).reshape(-1, 3),
        cell=np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64),
        pbc=np.broadcast_to(np.asarray(cell is not None and pbc), 3).copy(),
    )


def crystal(seed: int = 0) -> Structure:
    """Four atoms of four elements in a skewed cell, no two alike; other seeds displace the atoms by about 0.1 Å."""
    fractional = np.array([[0.02, 0.05, 0.01], [0.55, 0.47, 0.08], [0.46, 0.09, 0.52], [0.07, 0.58, 0.49]])
    noise = 0.1 * np.random.default_rng(seed).standard_normal((4, 3))
    return structure([8, 14, 29, 13], fractional @ TRICLINIC_CELL + noise, TRICLINIC_CELL)


def metal() -> Structure:
    """One atom in a cell so small that many of its own images are neighbours."""
    return structure([29], [[0.3, -0.2, 0.4]], [[0, 1.9, 1.8], [1.8, 0, 1.8], [1.8, 1.9, 0]])


def slab() -> Structure:
    """Three atoms, periodic along two axes."""
    positions = [[0.1, 0.2, 5.0], [2.0, 1.7, 6.3], [0.4, 2.3, 7.4]]
    return structure([13, 8, 14], positions, [[3.9, 0.3, 0], [0.2, 4.1, 0], [0, 0, 14]], [True, True, False])


def molecule() -> Structure:
    """Five atoms without a cell."""
    positions = [[0, 0, 0], [1.6, 0.1, 0.2], [-0.5, 1.5, 0.3], [0.2, -0.9, 1.5], [2.2, 1.4, -0.6]]
    return structure([14, 8, 8, 13, 29], positions)


def atom() -> Structure:
    """Single atom without a cell."""
    return structure([14], [[0.5, 0.2, 0.1]])


def distant_pair() -> Structure:
    """Two atoms that are too far apart to interact."""
    return structure([14, 8], [[0, 0, 0], [100.0, 0, 0]])


def with_positions(original: Structure, positions: np.ndarray) -> Structure:
    """Structure with the same atoms at other positions."""
    return replace(original, positions=positions)


def supercell(unit: Structure, repeats: tuple[int, int, int]) -> Structure:
    """Repeat a structure along its lattice vectors; the atoms of a copy stay together and in order."""
    shifts = np.stack(np.meshgrid(*(np.arange(n) for n in repeats), indexing="ij"), -1).reshape(-1, 3)
    positions = (unit.positions[None] + (shifts @ unit.cell)[:, None]).reshape(-1, 3)
    return replace(
        unit,
        atomic_numbers=np.tile(unit.atomic_numbers, len(shifts)),
        positions=positions,
        cell=np.array(repeats)[:, None] * unit.cell,
    )
