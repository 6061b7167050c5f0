"""Dataset on disk, `PackedDataset`: batches are gathered from memory-mapped files.

Opening a dataset reads only its manifest. A batch takes a few NumPy operations for any number of structures; no object
is made per structure. The files are described in `matscale.core.data.store.shard` and
`matscale.core.data.store.manifest`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.near_origin import brought_near
from matscale.core.data.store.arrays import Arrays
from matscale.core.data.store.edge_cache import EdgeCache, open_cache, verify_caches
from matscale.core.data.store.manifest import Manifest, ShardRecord, SourceRecord
from matscale.core.data.store.shard import LABELS, check_shard, map_shard, smallest
from matscale.core.data.store.verified import at_once, check_once
from matscale.core.data.store.writer import ShardWriter
from matscale.core.data.structure import Structure
from matscale.core.errors import DataError, did_you_mean
from matscale.core.progress import SILENT, Reporter

__all__ = ["Manifest", "PackedDataset", "ShardWriter", "SourceRecord"]

NO_GRAPH = Graph.none()
_CHUNK = 8192
Indices = Sequence[int] | NDArray[np.integer[Any]]
Pieces = list[tuple[Arrays, NDArray[np.int64], NDArray[np.int64] | None]]
"""Parts of a batch, one for each shard: (arrays of the shard, rows in the shard, positions in the batch).

If the whole batch is in one shard, the positions are None.
"""


class PackedDataset:
    """Dataset on disk: structures with labels, in the order in which they were packed. Made by `open`."""

    def __init__(self, path: Path, manifest: Manifest, in_memory: bool = False, progress: Reporter = SILENT) -> None:
        self.path, self.manifest, self.in_memory, self.progress = path, manifest, in_memory, progress
        for record in manifest.shards:
            _check_size(path / record.file, record)
        sizes = [shard.n_structures for shard in manifest.shards]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._shards: dict[int, Arrays] = {}
        self._caches: dict[str, EdgeCache | None] = {}
        if in_memory:
            self._load()

    @classmethod
    def open(cls, path: Path | str, in_memory: bool = False, progress: Reporter = SILENT) -> PackedDataset:
        """Open a packed dataset. The time for this does not depend on the size of the dataset.

        Shards are mapped when something is read from them; with `in_memory`, all of them are read now. A shard is
        checked completely when it is used on this machine for the first time; `progress` reports this if it takes long.
        Raises DataError if there is no dataset at `path`, or if the dataset is damaged.
        """
        path = Path(path)
        return cls(path, Manifest.read(path), in_memory, progress)

    @property
    def hash(self) -> str:
        """Identity of the dataset: a hash of its contents."""
        return self.manifest.hash

    def __len__(self) -> int:
        return self.manifest.n_structures

    def __repr__(self) -> str:
        return f"PackedDataset({str(self.path)!r}, {len(self):,} structures, {self.manifest.n_atoms:,} atoms)"

    def __getstate__(self) -> dict[str, Any]:
        """State for other processes. It has no memory maps, since other processes open the files again."""
        return {"path": self.path, "manifest": self.manifest, "in_memory": self.in_memory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def shard(self, number: int) -> Arrays:
        """Arrays of one shard. At first use, the file is mapped and, if needed, checked.

        Raises DataError if the file is missing or damaged, or is not the one that was packed.
        """
        if number not in self._shards:
            self._shards[number] = self._checked(self.manifest.shards[number])
        return self._shards[number]

    def _checked(self, record: ShardRecord, again: bool = False) -> Arrays:
        path, n_sources = self.path / record.file, len(self.manifest.sources)
        arrays = map_shard(path)
        if (len(arrays["group"]), int(arrays["atom_ptr"][-1])) != (record.n_structures, record.n_atoms):
            raise DataError(
                f"{path}: holds {len(arrays['group'])} structures and {arrays['atom_ptr'][-1]} "
                f"atoms, but the manifest says {record.n_structures} and {record.n_atoms}. Copy the dataset again."
            )
        try:
            check_once(path, record.sha256, lambda: check_shard(arrays, n_sources), f"{n_sources} sources", again)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: {error}. Copy the dataset again, or pack it again.") from None
        return arrays

    def _load(self) -> None:
        mapped = [arrays for _, arrays in self.shards()]
        joined = {k: np.concatenate([a[k] for a in mapped]) for k in mapped[0] if k != "atom_ptr"}
        joined["atom_ptr"] = np.concatenate([[0], np.cumsum(self.n_atoms, dtype=np.int64)])
        self._starts, self._shards = np.array([0, len(self)]), {0: joined}

    def shards(self) -> Iterator[tuple[int, Arrays]]:
        """Yield every shard in order, as (index of the first structure, arrays)."""
        self.check()
        for number in range(len(self._starts) - 1):
            yield int(self._starts[number]), self.shard(number)

    def check(self) -> None:
        """Map all shards now, several at once. Shards that were not checked before are checked."""
        if len(self._shards) < len(self._starts) - 1:
            paths = [self.path / record.file for record in self.manifest.shards]
            for _ in at_once(self.shard, paths, "Checking the data", self.progress):
                pass

    def _column(self, name: str) -> NDArray[Any]:
        columns = [arrays[name] for _, arrays in self.shards()]
        return columns[0] if len(columns) == 1 else np.concatenate(columns)

    @cached_property
    def n_atoms(self) -> NDArray[np.int32]:
        """Number of atoms of each structure, [n_structures]. Read from disk at first use."""
        return np.concatenate([np.diff(arrays["atom_ptr"]).astype(np.int32) for _, arrays in self.shards()])

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """Hash of the name of each structure's group, [n_structures]."""
        return self._column("group")

    @cached_property
    def sources(self) -> NDArray[np.int32]:
        """Index of each structure's source in `manifest.sources`, [n_structures]."""
        return self._column("source")

    def has(self, label: str) -> NDArray[np.bool_]:
        """Return an array [n_structures] that is True where `label` ("energy", "forces", "stress") exists."""
        if label not in LABELS:
            raise DataError(f"There is no label {label!r}. {did_you_mean(label, LABELS)}")
        return self._column(f"has_{label}").astype(bool)

    def _pieces(self, indices: Indices) -> tuple[NDArray[np.int64], Pieces]:
        index = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(index) and not (index.min() >= 0 and index.max() < len(self)):
            wrong = int(index[(index < 0) | (index >= len(self))][0])
            raise IndexError(f"there is no structure {wrong} in a dataset of {len(self):,} (0 to {len(self) - 1})")
        if len(self._starts) == 2:
            return index, [(self.shard(0), index, None)]
        owner = np.searchsorted(self._starts, index, side="right") - 1
        pieces: Pieces = []
        for number in np.unique(owner):
            places = np.flatnonzero(owner == number)
            pieces.append((self.shard(int(number)), index[places] - self._starts[number], places))
        return index, pieces

    def energies(self, indices: Indices | None = None) -> NDArray[np.float64]:
        """Energies in eV of all structures, or of those at `indices`; NaN where missing.

        The shape is [n_structures] or [len(indices)].
        """
        if indices is None:
            return self._column("energy")
        index, pieces = self._pieces(indices)
        return _rows("energy", pieces, len(index))

    def composition(self, indices: Indices | None = None) -> NDArray[np.int32]:
        """Count the atoms of each element in each structure: [n_structures, 119], by atomic number.

        The structures are those at `indices`, or all. The result takes 476 bytes per structure, so give a few thousand
        `indices` at a time.
        """
        index, pieces = self._pieces(np.arange(len(self)) if indices is None else indices)
        atoms = _Atoms(pieces, len(index))
        z = atoms.gather("atomic_numbers").astype(np.int64)
        return np.bincount(atoms.batch() * 119 + z, minlength=119 * len(index)).reshape(-1, 119).astype(np.int32)

    def elements(self, indices: Indices) -> tuple[int, ...]:
        """Atomic numbers that occur in the structures at `indices`, ascending.

        Memory does not grow with the number of structures.
        """
        index = np.asarray(indices, dtype=np.int64)
        seen = np.zeros(119, dtype=bool)
        for start in range(0, len(index), _CHUNK):
            _, pieces = self._pieces(chunk := index[start : start + _CHUNK])
            seen[_Atoms(pieces, len(chunk)).gather("atomic_numbers")] = True
        return tuple(int(z) for z in np.flatnonzero(seen))

    def labels(self, indices: Indices) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Forces and stress of the structures at `indices`; NaN where missing.

        The shapes are [n_atoms, 3] eV/Å and [n_structures, 3, 3] eV/Å³.
        """
        index, pieces = self._pieces(indices)
        return _Atoms(pieces, len(index)).gather("forces"), _rows("stress", pieces, len(index))

    def structure(self, index: int) -> Structure:
        """Read one structure with its labels.

        The structure has no name of a trajectory, since only a hash of the name is stored.
        """
        _, [(arrays, rows, _)] = self._pieces([index])
        row = int(rows[0])
        atoms = slice(int(arrays["atom_ptr"][row]), int(arrays["atom_ptr"][row + 1]))
        return Structure(
            atomic_numbers=arrays["atomic_numbers"][atoms].astype(np.int64),
            positions=arrays["positions"][atoms].astype(np.float64),
            cell=arrays["cell"][row].copy(),
            pbc=arrays["pbc"][row].astype(bool),
            energy=float(arrays["energy"][row]) if arrays["has_energy"][row] else None,
            forces=arrays["forces"][atoms].astype(np.float64) if arrays["has_forces"][row] else None,
            stress=arrays["stress"][row].copy() if arrays["has_stress"][row] else None,
            source=f"{self.path} structure {index}",
        )

    def __getitem__(self, index: int) -> Structure:
        return self.structure(index)

    def __iter__(self) -> Iterator[Structure]:
        return (self.structure(index) for index in range(len(self)))

    def batch(
        self,
        indices: Indices,
        graph: Graph = NO_GRAPH,
        dtype: torch.dtype = torch.float32,
    ) -> AtomicBatch:
        """Gather the structures at `indices`, in that order, as one batch; missing labels are NaN.

        Floating-point tensors get `dtype`, except the energy: it stays float64, since float32 would lose meV of total
        energies. Edges are read from the edge cache of `graph` beside the dataset; if there is none, they are computed.
        """
        index, pieces = self._pieces(indices)
        n = len(index)
        atoms = _Atoms(pieces, n)
        positions = atoms.gather("positions")
        cell, pbc = _rows("cell", pieces, n), _rows("pbc", pieces, n).view(bool)
        edges = self._edges(index, atoms, positions, cell, pbc, graph) if graph.has_edges else None
        positions, edges = brought_near(positions, atoms.counts, cell, pbc, edges)
        edge_index, edge_shift = (None, None) if edges is None else (_tensor(x) for x in edges)
        return AtomicBatch(
            positions=_tensor(positions, dtype),
            atomic_numbers=_tensor(atoms.gather("atomic_numbers"), torch.int64),
            cell=_tensor(cell, dtype),
            pbc=_tensor(pbc),
            batch=_tensor(atoms.batch()),
            atoms_per_structure=_tensor(atoms.counts),
            edge_index=edge_index,
            edge_shift=edge_shift,
            energy=_tensor(_rows("energy", pieces, n)),
            forces=_tensor(atoms.gather("forces"), dtype),
            stress=_tensor(_rows("stress", pieces, n), dtype),
            index=_tensor(index.copy()),
        )

    def _edges(
        self, index: NDArray[Any], atoms: _Atoms, positions: Any, cell: Any, pbc: Any, graph: Graph
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        if graph.key not in self._caches:
            self._caches[graph.key] = open_cache(self, graph)
        cache = self._caches[graph.key]
        if cache is not None:
            return cache.gather(index, atoms.starts)
        from matscale.core.data.neighbors import edges_of_each, joined  # start-up: vesin

        names = (f"{self.path}: structure {row}" for row in index.tolist())
        positions = np.split(positions.astype(np.float64), atoms.starts[1:])
        return joined(edges_of_each(zip(names, positions, cell, pbc), graph), atoms.counts.tolist())

    def forget_graphs(self) -> None:
        """Forget which edge caches exist, so that the next batch looks on disk again."""
        self._caches.clear()

    def verify(self) -> None:
        """Read and check every shard and every file of cached edges, including those that were checked before.

        Raises DataError that names the first file that has changed since it was written.
        """
        for record in self.manifest.shards:
            self._checked(record, again=True)
        verify_caches(self)


def _check_size(path: Path, record: ShardRecord) -> None:
    """Raises DataError if the file is missing or too small. The file is not read."""
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path}: is missing ({error.strerror}). Copy the dataset again.") from None
    if not S_ISREG(stat.st_mode):
        raise DataError(f"{path}: is not a file. Copy the dataset again.")
    if stat.st_size < smallest(record.n_structures, record.n_atoms):
        raise DataError(
            f"{path}: is not a whole shard ({stat.st_size:,} bytes, too few for {record.n_structures:,} structures "
            f"and {record.n_atoms:,} atoms). Copy the dataset again."
        )


class _Atoms:
    """Places of the atoms of a batch in the shards."""

    def __init__(self, pieces: Pieces, n: int) -> None:
        self._pieces, self.counts = pieces, np.empty(n, dtype=np.int64)
        firsts = []
        for arrays, rows, places in pieces:
            first = arrays["atom_ptr"][rows]
            self.counts[slice(None) if places is None else places] = arrays["atom_ptr"][rows + 1] - first
            firsts.append(first)
        ends = np.cumsum(self.counts)
        self.starts = ends - self.counts  # [n] first atom of each structure, in the batch
        self.total = int(ends[-1]) if n else 0
        self._within = np.arange(self.total)
        self._maps = [self._map(first, places) for first, (_, _, places) in zip(firsts, pieces)]

    def _map(self, first: NDArray[np.int64], places: NDArray[np.int64] | None) -> tuple[Any, Any]:
        """Row numbers of one part's atoms in the shard, and in the batch.

        The second is None if the batch has only one part.
        """
        if places is None:
            return self._within + np.repeat(first - self.starts, self.counts), None
        counts = self.counts[places]
        offset = np.cumsum(counts) - counts
        within = np.arange(int(counts.sum()))
        return within + np.repeat(first - offset, counts), within + np.repeat(self.starts[places] - offset, counts)

    def gather(self, name: str) -> NDArray[Any]:
        """Gather the array `name`, which has a row for each atom: [n_atoms, ...]."""
        source = self._pieces[0][0][name] if self._pieces else np.zeros((0, 3))
        if len(self._maps) == 1 and self._maps[0][1] is None:
            gathered: NDArray[Any] = source.take(self._maps[0][0], axis=0)
            return gathered
        result = np.empty((self.total, *source.shape[1:]), source.dtype)
        for (arrays, _, _), (rows, places) in zip(self._pieces, self._maps):
            result[places] = arrays[name].take(rows, axis=0)
        return result

    def batch(self) -> NDArray[np.int64]:
        """Number of the structure in the batch to which each atom belongs, [n_atoms]."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


def _rows(name: str, pieces: Pieces, n: int) -> NDArray[Any]:
    source = pieces[0][0][name] if pieces else np.zeros(0)
    if len(pieces) == 1 and pieces[0][2] is None:
        return source.take(pieces[0][1], axis=0)
    result = np.empty((n, *source.shape[1:]), source.dtype)
    for arrays, rows, places in pieces:
        result[places] = arrays[name].take(rows, axis=0)
    return result


def _tensor(array: NDArray[Any], dtype: torch.dtype | None = None) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor if dtype is None else tensor.to(dtype)
