"""Check whether a structure is usable for training. It is left out for one of these reasons:

| reason | meaning |
|---|---|
| no atoms | nothing to learn from |
| unknown element | atomic number outside 1..118 |
| non-finite ... | NaN or infinity in positions, cell or a label |
| wrong number of forces | not one per atom |
| absurd coordinates | a position or lattice vector beyond 10⁸ Å, where no digit of a bond length is left |
| missing cell | a periodic axis without a lattice vector |
| absurd volume | a periodic cell that is flat, or below 0.3 or (with two atoms or more) above 1e5 Å³ per atom |
| overlapping atoms | two atoms (or an atom and its image) closer than 0.1 Å |
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from matscale.core.data.near_origin import FARTHEST
from matscale.core.data.sources.labels import Unusable
from matscale.core.data.structure import Structure

MIN_DISTANCE = 0.1
"""Least accepted distance of two atoms, or of an atom and its periodic image [Å]."""
MIN_VOLUME, MAX_VOLUME = 0.3, 1e5
"""Least and largest accepted volume per atom [Å³].

Metallic hydrogen at 500 GPa has about 1 Å³. The box of a single atom may be of any size.
"""
_ALL_PAIRS = 64


def screen(structure: Structure) -> None:
    """Raises Unusable, with the reason, for a structure that cannot be used for training."""
    n = len(structure)
    if n == 0:
        raise Unusable("no atoms", "0 atoms")
    z = structure.atomic_numbers
    if z.min() < 1 or z.max() > 118:
        raise Unusable("unknown element", f"atomic number {int(z[(z < 1) | (z > 118)][0])}")
    for name in ("positions", "forces"):
        value = getattr(structure, name)
        if value is not None and value.shape != (n, 3):
            raise Unusable(f"wrong number of {name}", f"shape {value.shape} for {n} atoms")
    _check_finite(structure)
    if max(np.abs(structure.positions).max(), np.abs(structure.cell).max()) > FARTHEST:
        raise Unusable("absurd coordinates", f"a position or lattice vector beyond {FARTHEST:.0e} Å")
    frame = _frame(structure)
    _check_overlaps(structure.positions, frame, structure.pbc)


def _check_finite(structure: Structure) -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        for name in ("positions", "cell", "energy", "forces", "stress"):
            value = getattr(structure, name)
            # A sum is finite only if all terms are, and costs less than looking at each.
            if value is not None and not math.isfinite(np.sum(value)) and not np.isfinite(value).all():
                n_wrong = int(np.size(value) - np.isfinite(value).sum())
                raise Unusable(f"non-finite {name}", f"{n_wrong} of {np.size(value)} values")


def _frame(structure: Structure) -> NDArray[np.float64]:
    """Check the cell. Returns it [3, 3], with unit vectors in place of the vectors of non-periodic axes."""
    periodic = structure.pbc
    if not periodic.any():
        return np.eye(3)
    lengths = np.sqrt(np.einsum("ka,ka->k", structure.cell, structure.cell))
    if (lengths[periodic] < 1e-6).any():
        axis = int(np.flatnonzero(periodic & (lengths < 1e-6))[0])
        raise Unusable("missing cell", f"axis {'abc'[axis]} is periodic and has no lattice vector")
    if not periodic.all():
        return _completed(structure.cell, periodic)
    return structure.cell


def _completed(cell: NDArray[np.float64], periodic: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Replace the lattice vectors of non-periodic axes by unit vectors orthogonal to the periodic ones."""
    frame = cell.copy()
    normals = np.linalg.svd(cell[periodic])[2][int(periodic.sum()) :]
    frame[~periodic] = normals
    return frame


def _faces(frame: NDArray[np.float64], n: int, has_volume: bool) -> tuple[NDArray[np.float64], list[float]]:
    """Compute the inverse of a cell, and the distances between its opposite faces.

    Raises Unusable for an absurd volume. The numbers are Python's floats, since calls of NumPy would take longer than
    these few multiplications.
    """
    a, b, c = frame.tolist()
    normals = (_cross(b, c), _cross(c, a), _cross(a, b))
    volume = _dot(a, normals[0])
    # The volume is only rounding error: the vectors lie in one plane.
    flat = abs(volume) <= 1e-6 * (_dot(a, a) * _dot(b, b) * _dot(c, c)) ** 0.5
    most = MAX_VOLUME if n > 1 else math.inf
    if flat or (has_volume and not MIN_VOLUME <= abs(volume) / n <= most):
        raise Unusable("absurd volume", f"{0.0 if flat else abs(volume) / n:.3g} Å³ per atom")
    heights = [abs(volume) / _dot(normal, normal) ** 0.5 for normal in normals]
    return np.array(normals).T / volume, heights


def _cross(u: list[float], v: list[float]) -> list[float]:
    return [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]]


def _dot(u: list[float], v: list[float]) -> float:
    return u[0] * v[0] + u[1] * v[1] + u[2] * v[2]


def _check_overlaps(positions: NDArray[np.float64], frame: NDArray[np.float64], periodic: NDArray[np.bool_]) -> None:
    inverse, heights = _faces(frame, len(positions), bool(periodic.all()))
    # If all heights exceed 2 r, rounding of fractional coordinates finds every image closer than r.
    between_images = min((height for height, has in zip(heights, periodic.tolist()) if has), default=np.inf)
    if between_images < 2 * MIN_DISTANCE:
        raise Unusable("overlapping atoms", f"an atom and its periodic image are {between_images:.3g} Å apart")
    fractional = positions @ inverse
    i, j = _close_pairs(fractional, periodic, MIN_DISTANCE / min(heights))
    if len(i) == 0:
        return
    difference = fractional[i] - fractional[j]
    difference -= np.round(difference) * periodic
    vectors = difference @ frame
    squares = np.einsum("pa,pa->p", vectors, vectors)
    nearest = int(squares.argmin())
    if squares[nearest] < MIN_DISTANCE**2:
        distance = squares[nearest] ** 0.5
        raise Unusable("overlapping atoms", f"atoms {i[nearest]} and {j[nearest]} are {distance:.3g} Å apart")


def _close_pairs(
    fractional: NDArray[np.float64], periodic: NDArray[np.bool_], reach: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find pairs of atoms i < j whose fractional coordinates differ by at most `reach`, periodic images included.

    If there are few atoms, all pairs are returned.
    """
    n = len(fractional)
    if n <= _ALL_PAIRS:
        return _UPPER[n]
    from scipy.spatial import cKDTree  # start-up: scipy

    box = np.where(periodic, 1.0, 0.0)  # 0 for an axis without images
    wrapped = np.where(periodic, fractional % 1.0, fractional)
    wrapped[wrapped == 1.0] = 0.0  # −1e-17 % 1.0
    # Axes without images hold Å rather than fractions. The tree needs positive coordinates, so they are shifted.
    wrapped -= np.where(periodic, 0.0, wrapped.min(axis=0))
    pairs = cKDTree(wrapped, boxsize=box).query_pairs(reach, p=np.inf, output_type="ndarray")
    return pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64)


_UPPER = [np.triu_indices(n, 1) for n in range(_ALL_PAIRS + 1)]
