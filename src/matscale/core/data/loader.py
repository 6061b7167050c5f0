"""Data loader: makes the batches of an epoch, each filled up to a budget.

The order of the structures is a pure function of the seed and the epoch. Batch k of an epoch does not depend on which
batches were made before, so that a resumed run continues where it stopped. For an epoch, only the positions in the
order at which batches begin are stored, but not the order itself.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from matscale.core.counter_rng import Permutation, rotations, uniforms
from matscale.core.data.augment import Noise
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.isolated import check_batch
from matscale.core.data.partition import shares
from matscale.core.data.store.edge_cache import open_cache
from matscale.core.data.store.edge_cache_build import build_cache
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError

_WINDOW = 1 << 17
"""Number of structures whose order and sizes are computed at once: 1 MB per array, however large the dataset."""
_ORDER, _ROTATE, _REFLECT = 1, 2, 3
"""Numbers of the random streams for the order, the rotations and the reflections."""


class Batched(Protocol):
    """Interface of a dataset from which a loader can make batches, such as `PackedDataset`."""

    @property
    def n_atoms(self) -> NDArray[np.integer]: ...

    def __len__(self) -> int: ...

    def batch(self, indices: NDArray[np.int64], graph: Graph = ..., dtype: torch.dtype = ...) -> AtomicBatch: ...


@dataclass(frozen=True)
class BatchBudget:
    """Limits on the numbers of structures, atoms and edges in a batch; at least one must be set.

    A batch ends at the first limit that is reached.
    """

    structures: int | None = None
    atoms: int | None = None
    edges: int | None = None

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        if not given:
            raise ConfigError("the batch budget is empty: limit structures, atoms or edges (or several of them).")
        for name, limit in given.items():
            if limit < 1:
                raise ConfigError(f"batch budget: {name} = {limit}: must be at least 1.")


@dataclass(frozen=True)
class Augmentation:
    """Random rotation or inversion of each structure.

    Positions, cell, forces and stress are transformed together.
    """

    rotate: bool = False
    """Whether to rotate each structure, with a uniform distribution over all rotations (Haar)."""
    reflect: bool = False
    """Whether to invert each structure with probability 1/2; with `rotate`, uniform over O(3)."""

    def matrices(self, indices: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.float64]:
        """Draw a rotation or reflection matrix for each structure in `indices`: [len(indices), 3, 3].

        Each matrix is a pure function of the seed, the epoch and the index of the structure.
        """
        matrix = np.broadcast_to(np.eye(3), (len(indices), 3, 3))
        if self.rotate:
            matrix = rotations(indices, _ROTATE, seed, epoch)
        if self.reflect:
            inverted = uniforms(indices, 1, _REFLECT, seed, epoch) < 0.5
            matrix = np.where(inverted[:, :, None], -matrix, matrix)
        return matrix


class Loader:
    """Loader of the structures at `indices` of a dataset, in batches.

    `shuffle=True` draws a new order each epoch; `shuffle=False` keeps the order of `indices`. Every structure occurs
    once per epoch. The batches do not depend on the number of processes, which share them. With `noise`, atoms are
    displaced and forces point back to the original positions.

    Unless `isolated` is True, a structure in which no atom has a neighbour raises DataError.

    A limit on edges needs the number of edges of every structure. For this, an edge cache is built if there is none.
    """

    def __init__(
        self,
        dataset: Batched,
        indices: NDArray[np.integer] | range,
        graph: Graph,
        budget: BatchBudget,
        *,
        seed: int = 0,
        shuffle: bool = True,
        augmentation: Augmentation | None = None,
        noise: Noise | None = None,
        dtype: torch.dtype = torch.float32,
        isolated: bool = True,
    ) -> None:
        if not len(indices):
            raise ConfigError("no structures to load: the selection is empty. Take a larger part of the dataset.")
        if budget.edges and not graph.has_edges and not (budget.structures or budget.atoms):
            raise ConfigError(
                "batch.edges is the only limit on a batch, and this model has no edges: limit structures or atoms."
            )
        self.dataset, self.graph, self.budget, self.dtype = dataset, graph, budget, dtype
        self.seed, self.shuffle, self.augmentation, self.noise = seed, shuffle, augmentation, noise
        self.isolated = isolated
        self._indices = indices
        self._plan: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))
        self._window: tuple[int, int, NDArray[np.int64]] = (-1, 0, np.zeros(0, np.int64))
        self._n_edges: NDArray[np.integer] | None = None
        self._sizes: NDArray[np.integer] | None = None
        self._warned = False

    @property
    def n_structures(self) -> int:
        """Number of structures in an epoch."""
        return len(self._indices)

    def n_batches(self, epoch: int) -> int:
        """Number of batches in `epoch`."""
        return len(self._boundaries(epoch)) - 1

    def epoch(self, epoch: int, start: int = 0, stride: int = 1) -> Iterator[AtomicBatch]:
        """Yield batches `start`, `start + stride`, ... of `epoch`; others are not made."""
        for k in range(start, self.n_batches(epoch), stride):
            yield self.batch(epoch, k)

    def batch(self, epoch: int, k: int) -> AtomicBatch:
        """Make batch k of `epoch`."""
        return self.of_rows(epoch, self.members(epoch, k))

    def of_rows(self, epoch: int, indices: NDArray[np.int64]) -> AtomicBatch:
        """Make a batch of the structures at `indices` of the dataset, augmented as in `epoch`."""
        batch = self.dataset.batch(indices, self.graph if self.noise is None else Graph.none(), self.dtype)
        if self.augmentation and (self.augmentation.rotate or self.augmentation.reflect):
            batch = batch.transformed(torch.from_numpy(self.augmentation.matrices(indices, self.seed, epoch)))
        if self.noise is not None:
            batch = self.noise.displaced(batch, self.graph, self.seed, epoch, int(self.shuffle))
        if not self.isolated:
            check_batch(batch, self.graph)
        return batch

    def members(self, epoch: int, k: int) -> NDArray[np.int64]:
        """Rows of the dataset in batch k of `epoch`."""
        boundaries = self._boundaries(epoch)
        return self._ordered(epoch, int(boundaries[k]), int(boundaries[k + 1]))

    def _ordered(self, epoch: int, first: int, last: int) -> NDArray[np.int64]:
        of, begin, rows = self._window
        if of != epoch or first < begin or last > begin + len(rows):
            begin, end = first, min(max(last, first + _WINDOW), len(self._indices))
            places = np.arange(begin, end)
            if self.shuffle:
                places = Permutation(len(self._indices), _ORDER, self.seed, epoch)(places)
            rows = _take(self._indices, places)
            self._window = (epoch, begin, rows)
        return rows[first - begin : last - begin]

    def _boundaries(self, epoch: int) -> NDArray[np.int64]:
        """Positions in the order of `epoch` at which batches begin, and the end of the last: [n_batches + 1]."""
        of = epoch if self.shuffle else 0
        if self._plan[0] != of:
            self._plan = (of, self._filled(epoch))
        return self._plan[1]

    def _filled(self, epoch: int) -> NDArray[np.int64]:
        """Positions in the order of `epoch` at which batches begin, and the end of the last batch.

        Each batch takes structures until one more would exceed the budget.
        """
        n, limits = len(self._indices), self._limits()
        if not limits:
            assert self.budget.structures
            return np.append(np.arange(0, n, self.budget.structures), n)
        boundaries, first = [0], 0
        # The order is drawn a window at a time: the sizes of a hundred million structures would fill the memory.
        while first < n:
            last = min(first + _WINDOW, n)
            rows = self._ordered(epoch, first, last)
            sums = {name: _cumulated(sizes[rows]) for name, (sizes, _) in limits.items()}
            self._warn_of_giants(rows, limits)
            at = 0
            while at < last - first:
                # Bisection of cumulative sizes finds the end of a batch; time is proportional to
                # batches, not structures.
                end = last - first
                for name, (_, limit) in limits.items():
                    end = min(end, bisect_right(sums[name], sums[name][at] + limit, lo=at) - 1)
                end = max(end, at + 1)  # a structure above the limit is a batch by itself
                if self.budget.structures:
                    end = min(end, at + self.budget.structures)
                if end == last - first and last < n and at > 0:
                    break  # the batch may continue in the next window, which therefore starts here
                boundaries.append(first + end)
                at = end
            first += at
        return np.array(boundaries, dtype=np.int64)

    def largest(self, n: int) -> NDArray[np.int64]:
        """Rows of the dataset of the `n` structures with the most work, largest first."""
        rows = _take(self._indices, np.arange(len(self._indices)))
        return rows[np.argsort(-self._work()[rows].astype(np.int64), kind="stable")[:n]]

    def shared(self, epoch: int, batches: range, n_processes: int) -> list[list[NDArray[np.int64]]]:
        """Divide the structures of some batches of `epoch` among processes: rows of the micro-batches of each.

        The work of the processes is balanced, and a micro-batch keeps to the budget. The result depends on the
        arguments alone, so that all processes find the same division.
        """
        rows = np.concatenate([self.members(epoch, k) for k in batches])
        limits = [(sizes[rows], limit) for sizes, limit in self._limits().values()]
        divided = shares(self._work()[rows], limits, n_processes, self.budget.structures)
        return [[rows[places] for places in share] for share in divided]

    def _work(self) -> NDArray[np.integer]:
        """Measure of the work for each structure [n]: its number of edges if known, otherwise its number of atoms."""
        # Decided once: another process may build the cache later, and then one rank would divide otherwise.
        if self._sizes is None:
            if self._n_edges is None and self.noise is None and isinstance(self.dataset, PackedDataset):
                cache = open_cache(self.dataset, self.graph)
                self._n_edges = None if cache is None else cache.n_edges
            self._sizes = self.dataset.n_atoms if self._n_edges is None else self._n_edges
        return self._sizes

    @property
    def is_balanced_by_edges(self) -> bool:
        """Whether `shared` knows the number of edges of each structure."""
        return self._work() is self._n_edges

    def _limits(self) -> dict[str, tuple[NDArray[np.integer], int]]:
        """Limits on "atoms" and "edges", as far as the budget sets them.

        Each limit is a pair: the number of atoms or edges of every structure, [len(dataset)], and the largest number in
        a batch.
        """
        limits: dict[str, tuple[NDArray[np.integer], int]] = {}
        if self.budget.atoms:
            limits["atoms"] = (self.dataset.n_atoms, self.budget.atoms)
        if self.budget.edges and self.graph.has_edges:
            if self._n_edges is None:
                self._n_edges = count_edges(self.dataset, self.graph)
            limits["edges"] = (self._n_edges, self.budget.edges)
        return limits

    def _warn_of_giants(self, rows: NDArray[np.int64], limits: dict[str, tuple[NDArray[np.integer], int]]) -> None:
        for name, (sizes, limit) in limits.items():
            giants = rows[sizes[rows] > limit]
            if giants.size and not self._warned:
                self._warned = True
                warnings.warn(
                    f"structure {giants[0]} has {sizes[giants[0]]} {name}, more than a batch may hold ({limit}). Each "
                    "such structure becomes a batch of its own. If memory runs out, leave such structures out.",
                    stacklevel=2,
                )


def count_edges(dataset: Batched, graph: Graph) -> NDArray[np.integer]:
    """Count the edges of each structure of a dataset, [n_structures].

    For a packed dataset the numbers come from its edge cache, which is built if there is none.
    """
    if isinstance(dataset, PackedDataset):
        return build_cache(dataset, graph).n_edges
    counts = np.zeros(len(dataset), np.int64)
    for start in range(0, len(dataset), 256):
        rows = np.arange(start, min(start + 256, len(dataset)))
        batch = dataset.batch(rows, graph)
        counts[rows] = np.bincount(batch.batch[batch.edges()[1]].numpy(), minlength=len(rows))
    return counts


def _take(indices: NDArray[np.integer] | range, places: NDArray[np.int64]) -> NDArray[np.int64]:
    if isinstance(indices, range):  # consecutive rows are a view and need no memory
        return indices.start + indices.step * places
    return np.asarray(indices[places], dtype=np.int64)


def _cumulated(sizes: NDArray[np.integer]) -> list[int]:
    return [0, *np.cumsum(sizes, dtype=np.int64).tolist()]
