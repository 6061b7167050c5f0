"""Edge cache: edges stored beside a dataset, so that training need not search for neighbours in every epoch.

    <dataset>/graphs/<graph.key>/edges-00000.safetensors, ...   one file per shard of the dataset
    <dataset>/graphs/<graph.key>/manifest.json                  the graph, the hash of the dataset they belong to, and
                                                                a SHA-256 per file

Arrays of a file, for a shard of n structures, N atoms and E edges:

| array | dtype and shape | |
|---|---|---|
| atom_ptr | int64 [n + 1] | as in the dataset's shard |
| edge_ptr | int64 [n + 1] | edges of structure s are edge_ptr[s] .. edge_ptr[s + 1], in the order of `neighbors` |
| neighbor | uint8, uint16 or uint32 [E] | j, counted from the first atom of its structure |
| shift | int8, int16 or int32 [E, 3] | |
| degree | uint8, uint16 or uint32 [N] | edges of each centre i; i itself is not stored |

An edge usually takes 4 bytes on disk, and 28 bytes in a batch. Building can be interrupted: finished pieces are kept in
a hidden folder and used again. A cache is never used if one of its files is damaged, or if the dataset has changed.
Each file is checked once (see `matscale.core.data.store.verified`). If a cache is built again, undamaged files are
kept.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matscale.core.data.graph import Graph
from matscale.core.data.store.arrays import Arrays, map_arrays
from matscale.core.data.store.shard import map_shard
from matscale.core.data.store.verified import at_once, check_once
from matscale.core.errors import DataError

if TYPE_CHECKING:
    from matscale.core.data.store.packed import PackedDataset

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


class EdgeCache:
    """Edges of every structure of a dataset, mapped from disk. Get one from `open_cache` or `build_cache`."""

    def __init__(self, folder: Path, sizes: list[int]) -> None:
        self.folder = folder
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._maps: dict[int, Arrays] = {}

    def _arrays(self, number: int) -> Arrays:
        if number not in self._maps:
            path = self.folder / file_of(number)
            try:
                self._maps[number] = map_arrays(path)
            except (OSError, ValueError) as error:
                raise DataError(f"{path}: was damaged while it was in use ({error}). Start again.") from None
        return self._maps[number]

    @cached_property
    def n_edges(self) -> NDArray[np.int32]:
        """Number of edges of each structure, [n_structures]. Read from disk at first use."""
        counts = [np.diff(self._arrays(k)["edge_ptr"]).astype(np.int32) for k in range(len(self._starts) - 1)]
        return np.concatenate(counts)

    def gather(
        self, indices: NDArray[np.int64], first_atoms: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Gather the edges of the structures at `indices`: edge_index [2, n_edges], edge_shift [n_edges, 3].

        The atoms in edge_index are numbered as in a batch of these structures. `first_atoms` [len(indices)] has, for
        each structure, the number of its first atom in the batch.
        """
        n = len(indices)
        neighbor, shift, degree = ([_NOTHING] * n for _ in range(3))
        n_edges = np.zeros(n, np.int64)
        owners = np.searchsorted(self._starts, indices, side="right") - 1
        for owner in np.unique(owners).tolist():
            places = np.flatnonzero(owners == owner)
            rows, arrays = indices[places] - self._starts[owner], self._arrays(owner)
            atoms, edges = _spans(arrays["atom_ptr"], rows), _spans(arrays["edge_ptr"], rows)
            n_edges[places] = edges[1] - edges[0]
            all_neighbors, all_shifts, all_degrees = arrays["neighbor"], arrays["shift"], arrays["degree"]
            for place, a, b, e, f in zip(places.tolist(), *atoms.tolist(), *edges.tolist()):
                neighbor[place], shift[place], degree[place] = all_neighbors[e:f], all_shifts[e:f], all_degrees[a:b]
        if not n:
            return np.zeros((2, 0), np.int64), np.zeros((0, 3), np.int32)
        edge_index = np.empty((2, int(n_edges.sum())), np.int64)
        np.concatenate(neighbor, out=edge_index[0], casting="unsafe")  # converted to wider integers
        edge_index[0] += np.repeat(first_atoms, n_edges)
        degrees = np.concatenate(degree)
        edge_index[1] = np.repeat(np.arange(len(degrees)), degrees)
        return edge_index, np.concatenate(shift, dtype=np.int32)


_NOTHING: NDArray[Any] = np.zeros(0, np.uint8)


def _spans(pointer: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.stack([pointer[rows], pointer[rows + 1]])


def open_cache(dataset: PackedDataset, graph: Graph) -> EdgeCache | None:
    """Open the cached edges of a dataset by the rule `graph`; None if they cannot be used.

    A cache is not used if it belongs to other data (the dataset was packed again) or to another rule, or if a file is
    damaged. Then a warning is given, and the edges of every batch are searched.
    """
    if not graph.has_edges:
        return None
    found = survey(dataset, graph)
    if found.fault:
        warnings.warn(f"{found.fault}; cached edges are not used. Building the cache replaces them.", stacklevel=2)
    return EdgeCache(folder_of(dataset, graph), sizes_of(dataset)) if found.is_whole else None


@dataclass
class Survey:
    """Result of examining an edge cache."""

    sound: dict[int, dict[str, Any]]
    """Entries of the manifest for the files that are not damaged, by file number."""
    fault: str = ""
    """First fault that was found; empty if there is no fault, or no cache."""
    is_whole: bool = False
    is_foreign: bool = False
    """Whether the cache belongs to other data or to another neighbour rule."""


def survey(dataset: PackedDataset, graph: Graph) -> Survey:
    """Examine the cache of a dataset for the rule `graph`. Faults are returned, not raised.

    Files that were not checked before are checked now.
    """
    manifest = folder_of(dataset, graph) / MANIFEST
    if not os.path.lexists(manifest):
        return Survey({})
    try:
        if not manifest.is_file():
            raise ValueError("not a file")
        values = json.loads(manifest.read_text(encoding="utf-8"))
        if values["identity"] != identity_of(dataset, graph):
            return Survey({}, f"{manifest}: belongs to other data or another neighbour rule", is_foreign=True)
        records = _records(values, dataset)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Survey({}, f"{manifest}: is damaged ({error})")

    def fault(number: int) -> str:
        try:
            _check(dataset, manifest.parent, number, records[number].get("sha256", ""))
            return ""
        except (OSError, ValueError) as error:
            return f"{manifest.parent / file_of(number)}: {error}"

    paths = [manifest.parent / file_of(number) for number in range(len(records))]
    faults = list(at_once(fault, paths, "Checking cached edges", dataset.progress))
    sound = {number: record for number, record in enumerate(records) if not faults[number]}
    return Survey(sound, next(filter(None, faults), ""), is_whole=len(sound) == len(records))


def _records(manifest: Any, dataset: PackedDataset) -> list[dict[str, Any]]:
    """Return the entries of a manifest for the files of a cache.

    Raises an error, such as ValueError, if they do not belong to the shards of the dataset.
    """
    records: list[dict[str, Any]] = manifest["files"]
    names = [record.get("file") for record in records]
    if names != [file_of(number) for number in range(len(dataset.manifest.shards))]:
        raise ValueError(f"the files that it lists do not match the shards: {names!r:.100}")
    return records


def _check(dataset: PackedDataset, folder: Path, number: int, digest: str, again: bool = False) -> bool:
    """Check a file of edges. Returns whether the file had to be read.

    Raises ValueError or OSError that says what is wrong.
    """
    path, shard = folder / file_of(number), dataset.manifest.shards[number]

    def inspect() -> None:
        try:
            _check_edges(map_arrays(path), map_shard(dataset.path / shard.file)["atom_ptr"])
        except KeyError as error:
            raise ValueError(f"has no array {error}") from None

    return check_once(path, digest, inspect, shard.sha256, again)


def _check_edges(arrays: Arrays, atom_ptr: NDArray[np.int64]) -> None:
    """Check the arrays of a file of edges. Raises ValueError for a fault.

    `atom_ptr` is that of the dataset's shard.
    """
    edge_ptr, neighbor, degree = arrays["edge_ptr"], arrays["neighbor"], arrays["degree"]
    if edge_ptr.dtype != "<i8" or edge_ptr.shape != atom_ptr.shape:
        raise ValueError(f"edge_ptr is {edge_ptr.dtype} {edge_ptr.shape}, expected int64 {atom_ptr.shape}")
    if edge_ptr[0] != 0 or (edge_ptr[1:] < edge_ptr[:-1]).any():
        raise ValueError("edge_ptr decreases")
    n_atoms, n_edges = int(atom_ptr[-1]), int(edge_ptr[-1])
    shapes = {"neighbor": ("u", (n_edges,)), "shift": ("i", (n_edges, 3)), "degree": ("u", (n_atoms,))}
    for name, (kind, shape) in shapes.items():
        if arrays[name].dtype.kind != kind or arrays[name].shape != shape:
            raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}, expected {shape}")
    if not np.array_equal(arrays["atom_ptr"], atom_ptr):
        raise ValueError("atom_ptr is not that of the dataset")
    counts = np.diff(edge_ptr)
    if (np.add.reduceat(degree, atom_ptr[:-1], dtype=np.int64) != counts).any():
        raise ValueError("the degrees of some structure do not sum to its edges")
    some = counts > 0
    if some.any() and (np.maximum.reduceat(neighbor, edge_ptr[:-1][some]) >= np.diff(atom_ptr)[some]).any():
        raise ValueError("a neighbour is outside its structure")


def verify_caches(dataset: PackedDataset) -> None:
    """Check all files of all edge caches of a dataset, including those that were checked before.

    Raises DataError for the first fault. Caches that belong to other data are ignored, since they are never used.
    """
    for manifest in sorted(dataset.path.glob(f"graphs/*/{MANIFEST}")):
        path, again = manifest, f"Delete {manifest.parent}; it will be built again."
        try:
            values = json.loads(manifest.read_text(encoding="utf-8"))
            if values["identity"]["dataset"] != dataset.hash or values["identity"]["format_version"] != FORMAT_VERSION:
                continue
            for number, record in enumerate(_records(values, dataset)):
                path = manifest.parent / file_of(number)
                _check(dataset, manifest.parent, number, record.get("sha256", ""), again=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{path}: {error}. {again}") from None


def file_of(shard: int) -> str:
    return f"edges-{shard:05d}.safetensors"


def sizes_of(dataset: PackedDataset) -> list[int]:
    return [shard.n_structures for shard in dataset.manifest.shards]


def folder_of(dataset: PackedDataset, graph: Graph) -> Path:
    return dataset.path / "graphs" / graph.key


def identity_of(dataset: PackedDataset, graph: Graph) -> dict[str, Any]:
    """Identity of the edge cache of a dataset for the rule `graph`, as stored in the manifest of the cache.

    Cached edges are used only if the stored identity is equal. `Graph.key` would not be enough, since it rounds the
    cutoff.
    """
    rule = {name: value for name, value in asdict(graph).items() if name != "is_dense"}  # version of the layout
    return {"format_version": FORMAT_VERSION, "dataset": dataset.hash, "graph": rule}
