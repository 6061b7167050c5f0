"""Neighbour lists: find the edges of structures by a `Graph` rule, in float64 and always in the same order.

The search is done by the library vesin. A vesin object must not be shared by threads (it corrupts the heap), so each
thread keeps its own. Edges are sorted by centre i, then neighbour j, then shift, so that models that sum over edges
give the same bits for the same structure.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from vesin import NeighborList

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.near_origin import brought_near
from matscale.core.data.structure import Structure
from matscale.core.errors import DataError

TIE = 0.01
"""Margin [Å²] that the non-strict nearest rule adds to the squared distance up to which it keeps neighbours."""
CLOSEST = 0.01
"""Least accepted distance of two atoms [Å].

Two atoms that are closer count as one atom listed twice, and are refused. (EquiformerV2's code made no edge between
such atoms.)
"""
_RESOLUTION = 6
"""Decimals to which the strict rule rounds distances [Å]: rounding errors must not order equal distances."""
_THINNEST = 1e-2
"""Least accepted distance between lattice planes [Å].

If the distance is smaller, the cell is wrong, and a search would visit millions of images.
"""

MOST_EDGES = 10**8
"""Largest number of edges of one structure; arrays of so many edges take about 5 GB."""

_searches = threading.local()

Edges = tuple[NDArray[np.int64], NDArray[np.int32]]
Crystal = tuple[str, ArrayLike, ArrayLike, ArrayLike]
"""(name for error messages, positions, cell, pbc) of one structure"""


def neighbors(positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike, graph: Graph) -> Edges:
    """Find the edges of one structure: (edge_index [2, n_edges], edge_shift [n_edges, 3]).

    `positions` [n_atoms, 3] Å may lie outside the cell. Only the rows of `cell` [3, 3] Å for periodic axes are read;
    `pbc` [3] tells which axes are periodic. Row 0 of edge_index is the neighbour j, row 1 the centre i; the vector of
    an edge is positions[j] − positions[i] + edge_shift @ cell. Neighbours are closer than the cutoff of `graph`. A
    graph without edges gives empty arrays.

    Raises DataError for values that are not finite, for a periodic cell without volume, and for atoms closer than 0.01
    Å.

    >>> edge_index, edge_shift = neighbors([[0, 0, 0]], 2.5 * np.eye(3), [True] * 3, Graph.radius(3.0))
    >>> edge_index.shape, edge_shift[0].tolist()
    ((2, 6), [-1, 0, 0])
    """
    positions = np.ascontiguousarray(positions, dtype=np.float64).reshape(-1, 3)
    periodic = np.asarray(pbc, dtype=bool).reshape(3)
    # Rows of axes that are not periodic may hold anything (zeros, a vacuum, a copy of another row); they are ignored.
    box = np.where(periodic[:, None], np.asarray(cell, dtype=np.float64).reshape(3, 3), 0.0)
    if not graph.has_edges or not len(positions):
        return np.zeros((2, 0), np.int64), np.zeros((0, 3), np.int32)
    _check(positions, box, periodic)
    if graph.kind == "radius":
        i, j, shift, _ = _within(graph.cutoff, positions, box, periodic)
    else:
        i, j, shift, distance = _enough(graph, positions, box, periodic)
        keep = _nearest(graph, i, j, shift, distance, len(positions))
        i, j, shift = i[keep], j[keep], shift[keep]
    order = np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], j, i))
    return np.stack([j[order], i[order]]), shift[order]


def nearest_distance(positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike) -> float | None:
    """Distance in Å of the two nearest atoms, periodic images included; None for a single atom without images.

    >>> nearest_distance([[0, 0, 0], [0, 0, 2.0]], np.zeros((3, 3)), [False] * 3)
    2.0
    """
    positions = np.ascontiguousarray(positions, dtype=np.float64).reshape(-1, 3)
    periodic = np.asarray(pbc, dtype=bool).reshape(3)
    box = np.where(periodic[:, None], np.asarray(cell, dtype=np.float64).reshape(3, 3), 0.0)
    if len(positions) < 2 and not periodic.any():
        return None
    radius = 8.0
    while not (found := _within(radius, positions, box, periodic)[3]).size:
        radius *= 2
    return float(found.min())


def _check(positions: NDArray[np.float64], box: NDArray[np.float64], periodic: NDArray[np.bool_]) -> None:
    if not (np.isfinite(positions).all() and np.isfinite(box).all()):
        raise DataError("positions or cell hold NaN or infinite values. Correct them, or remove the structure.")
    if periodic.any() and not (thinnest := _thinnest(box[periodic])) > _THINNEST:
        raise DataError(
            f"cell {box.tolist()} Å with pbc {periodic.tolist()}: its periodic axes have lattice planes only "
            f"{thinnest:.3g} Å apart. Give each periodic axis its lattice vector, or make the axis non-periodic."
        )


def _refuse_crowd(radius: float, n_atoms: int, rows: NDArray[np.float64]) -> None:
    """Raises DataError if so many images lie within the radius that the search would fill the memory."""
    ball = (0.0, 2.0, math.pi, 4 / 3 * math.pi)[len(rows)] * radius ** len(rows)
    images = ball / math.sqrt(max(float(np.linalg.det(rows @ rows.T)), 1e-300)) if len(rows) else 0.0
    edges = images * n_atoms * (n_atoms if len(rows) == 3 else 1)
    if edges > MOST_EDGES:
        raise DataError(
            f"a structure of {n_atoms} atoms has about {edges:.3g} edges within {radius:g} Å; the limit is "
            f"{MOST_EDGES:.3g}. Choose a shorter cutoff, or correct the cell."
        )


def _thinnest(rows: NDArray[np.float64]) -> float:
    """Smallest distance between lattice planes [Å]. The diagonal of the inverse metric is 1 / distance²."""
    try:
        inverse_squares = np.linalg.inv(rows @ rows.T).diagonal()
    except np.linalg.LinAlgError:
        return 0.0
    return float(inverse_squares.max() ** -0.5) if inverse_squares.min() > 0 else 0.0


def _within(
    radius: float, positions: NDArray[np.float64], box: NDArray[np.float64], periodic: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
    """Find all pairs of atoms closer than `radius`: arrays (i, j, shift, distance), in no particular order."""
    _refuse_crowd(radius, len(positions), box[periodic])
    known: dict[float, NeighborList] = _searches.__dict__.setdefault("by_radius", {})
    if radius not in known:
        if len(known) > 32:  # `_enough` asks for a radius per density
            known.clear()
        known[radius] = NeighborList(cutoff=radius, full_list=True, sorted=False, n_threads=1)
    i, j, shift, distance = known[radius].compute(positions, box, periodic, "ijSd")
    i, j = i.astype(np.int64), j.astype(np.int64)
    if distance.size and distance.min() < CLOSEST:
        k = int(distance.argmin())
        a, b = sorted((int(i[k]), int(j[k])))
        apart = f"{distance[k]:.3g} Å apart, less than {CLOSEST} Å" if distance[k] > 1e-9 else "in one place"
        raise DataError(
            f"atoms {a} and {b} are {apart}, at {positions[a].tolist()} Å (up to lattice vectors; atoms are counted "
            "from 0). Remove one of them."
        )
    return i, j, shift, distance


def _enough(
    graph: Graph, positions: NDArray[np.float64], box: NDArray[np.float64], periodic: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
    """Find all pairs of atoms that the nearest rule `graph` can need, as arrays like those of `_within`.

    A long cutoff holds many more neighbours than are needed: a metal has 460 within 12 Å, of which 20 are needed. The
    search starts with a radius that holds about three times the needed number. It increases the radius until every atom
    has enough neighbours.
    """
    radius = graph.cutoff
    if periodic.all():
        volume_per_atom = abs(np.linalg.det(box)) / len(positions)
        wanted = (3 * (graph.n_neighbors + 1) * volume_per_atom * 3 / (4 * np.pi)) ** (1 / 3)
        radius = min(graph.cutoff, float(np.ceil(4 * wanted) / 4))  # quarters of an Å: few distinct searches
    while True:
        found = _within(radius, positions, box, periodic)
        if radius >= graph.cutoff:
            return found
        i, distance = found[0], found[3]
        safe = distance**2 + TIE < radius**2
        if np.bincount(i[safe], minlength=len(positions)).min() > graph.n_neighbors:
            return found
        radius = min(graph.cutoff, 1.5 * radius)


def _nearest(
    graph: Graph,
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    shift: NDArray[np.int32],
    distance: NDArray[np.float64],
    n_atoms: int,
) -> NDArray[np.int64]:
    """Indices of the edges that a nearest rule keeps; `Graph.nearest` describes the strict and the other form."""
    if graph.strict:
        seen = np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], j, np.round(distance, _RESOLUTION), i))
    else:
        seen = np.lexsort((distance, i))
    count = np.bincount(i[seen], minlength=n_atoms)
    first = np.cumsum(count) - count
    if graph.strict:
        rank = np.arange(len(seen)) - first[i[seen]]
        return seen[rank < graph.n_neighbors]
    limit = np.full(n_atoms, np.inf)  # Å², per centre
    full = count > graph.n_neighbors
    limit[full] = distance[seen[first[full] + graph.n_neighbors]] ** 2 + TIE
    return seen[distance[seen] ** 2 <= limit[i[seen]]]


def with_edges(batch: AtomicBatch, graph: Graph) -> AtomicBatch:
    """Return the batch with edges found anew by the rule `graph`. Raises DataError that names a faulty structure."""
    if not graph.has_edges:
        return batch
    rows = range(batch.n_structures) if batch.index is None else batch.index.tolist()
    counts = batch.atoms_per_structure.tolist()
    positions = (part.numpy() for part in batch.positions.split(counts))
    crystals = zip((f"structure {row}" for row in rows), positions, batch.cell.numpy(), batch.pbc.numpy())
    edge_index, edge_shift = joined(edges_of_each(crystals, graph), counts)
    return replace(batch, edge_index=torch.from_numpy(edge_index), edge_shift=torch.from_numpy(edge_shift))


def edges_of_each(crystals: Iterable[Crystal], graph: Graph) -> Iterator[Edges]:
    """Find the edges of each crystal. Raises DataError whose message begins with the name of the crystal."""
    for name, positions, cell, pbc in crystals:
        try:
            yield neighbors(positions, cell, pbc, graph)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None


def joined(edges: Iterable[Edges], counts: Sequence[int]) -> Edges:
    """Join the edges of several structures into the edges of one batch.

    `counts` has the number of atoms of each structure.
    """
    indices, shifts = [np.zeros((2, 0), dtype=np.int64)], [np.zeros((0, 3), dtype=np.int32)]
    for (index, shift), first in zip(edges, np.cumsum([0, *counts]).tolist()):
        indices.append(index + first)
        shifts.append(shift)
    return np.concatenate(indices, axis=1), np.concatenate(shifts)


def collate(
    structures: Sequence[Structure], graph: Graph = Graph.none(), dtype: torch.dtype = torch.float32
) -> AtomicBatch:
    """Make a batch of structures that are not in a packed dataset.

    Floating-point tensors get `dtype`, except energies, which stay float64: at −1000 eV, float32 resolves only 0.1 meV.
    Missing labels are NaN. Raises DataError that names the structure whose neighbours cannot be found.

    >>> atom = Structure(np.array([29]), np.zeros((1, 3)), 2.5 * np.eye(3), np.array([True] * 3), energy=-3.7)
    >>> batch = collate([atom, atom], Graph.radius(3.0))
    >>> batch.n_structures, batch.n_edges, batch.energy.tolist()
    (2, 12, [-3.7, -3.7])
    """
    if not structures:
        raise DataError("No structures were given for a batch: give at least one.")
    counts = [len(s) for s in structures]

    def floats(parts: list[NDArray[np.float64]]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.float64)).to(dtype)

    cells, pbc = (
        np.stack([s.cell.reshape(3, 3) for s in structures]),
        [np.asarray(s.pbc, dtype=bool) for s in structures],
    )
    crystals = ((s.source or f"structure {n}", s.positions, s.cell, s.pbc) for n, s in enumerate(structures))
    positions, edges = brought_near(
        np.concatenate([s.positions.reshape(-1, 3) for s in structures]).astype(np.float64),
        np.array(counts),
        cells,
        np.stack(pbc),
        joined(edges_of_each(crystals, graph), counts) if graph.has_edges else None,
    )
    edge_index, edge_shift = (None, None) if edges is None else map(torch.from_numpy, edges)
    return AtomicBatch(
        positions=floats([positions]),
        atomic_numbers=torch.from_numpy(np.concatenate([s.atomic_numbers for s in structures]).astype(np.int64)),
        cell=floats([cells]),
        pbc=torch.from_numpy(np.stack(pbc)),
        batch=torch.from_numpy(np.repeat(np.arange(len(structures)), counts)),
        atoms_per_structure=torch.tensor(counts),
        edge_index=edge_index,
        edge_shift=edge_shift,
        energy=torch.tensor([np.nan if s.energy is None else s.energy for s in structures], dtype=torch.float64),
        forces=floats([np.full((len(s), 3), np.nan) if s.forces is None else s.forces for s in structures]),
        stress=floats([np.full((1, 3, 3), np.nan) if s.stress is None else s.stress[None] for s in structures]),
        index=torch.full((len(structures),), -1),
    )


_NEXT = torch.tensor(list(product((-1, 0, 1), repeat=3)), dtype=torch.float64)
"""Shifts [27, 3] to a cell itself and to its 26 neighbours, in units of the lattice vectors."""


def minimum_image_distance(batch: AtomicBatch, i: Tensor, j: Tensor) -> Tensor:
    """Distances of pairs of atoms: from atom i to the nearest image of atom j of the same structure, in Å.

    The result [n_pairs] is in float64 and has no gradient.
    """
    distances: Tensor = torch.linalg.vector_norm(_near_images(batch, i, j), dim=-1)
    return distances.amin(1)


def minimum_image_vector(batch: AtomicBatch, i: Tensor, j: Tensor) -> Tensor:
    """Vectors [n_pairs, 3] Å from atom i to the nearest image of atom j, for pairs as in `minimum_image_distance`."""
    vectors = _near_images(batch, i, j)
    nearest = torch.linalg.vector_norm(vectors, dim=-1).argmin(1)
    return vectors[torch.arange(len(vectors), device=vectors.device), nearest]


def _near_images(batch: AtomicBatch, i: Tensor, j: Tensor) -> Tensor:
    """Vectors [n_pairs, 27, 3] from atom i to images of atom j, the nearest of all among them."""
    structure = batch.batch.index_select(0, i)
    positions, pbc = batch.positions.detach().double(), batch.pbc.double()
    cells = reduced_cells(batch).to(positions.device)
    vector = positions.index_select(0, j) - positions.index_select(0, i)
    cell, periodic = cells.index_select(0, structure), pbc.index_select(0, structure)
    fractional = torch.einsum("pa,pab->pb", vector, torch.linalg.inv(cell))
    wrapped = fractional - periodic * fractional.round()
    candidates = wrapped[:, None] + periodic[:, None] * _NEXT.to(positions.device)  # [n_pairs, 27, 3]
    return candidates @ cell


def reduced_cells(batch: AtomicBatch) -> Tensor:
    """Compute Minkowski-reduced lattice vectors, [n_structures, 3, 3] Å. The result is on the CPU.

    Vectors of non-periodic axes are replaced by vectors orthogonal to the periodic ones.
    """
    from ase.geometry import complete_cell, minkowski_reduce  # start-up: ase

    cells, pbc = batch.cell.detach().double().cpu().numpy(), batch.pbc.cpu().numpy()
    found = []
    for cell, periodic in zip(cells, pbc):
        whole = complete_cell(np.where(periodic[:, None], cell, 0.0))
        found.append(minkowski_reduce(whole, pbc=periodic)[0] if periodic.any() else whole)
    return torch.from_numpy(np.stack(found))
