"""Build an edge cache: find the edges of a whole dataset and store them beside the dataset."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import Crystal, edges_of_each
from matscale.core.data.store.arrays import map_arrays, write_arrays
from matscale.core.data.store.edge_cache import MANIFEST, EdgeCache, file_of, folder_of, identity_of, sizes_of, survey
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import DataError
from matscale.core.files import DiskError, make_folder, remove, sha256_of, sweep_up, write_text
from matscale.core.locks import lock
from matscale.core.parallel import in_processes
from matscale.core.progress import SILENT, Reporter

PIECE = 4096
"""Number of structures whose edges are found and written at once: about a second of work, some tens of MB."""


def build_cache(dataset: PackedDataset, graph: Graph, workers: int = 1, progress: Reporter = SILENT) -> EdgeCache:
    """Find the edges of every structure and store them beside the dataset. A valid cache is kept as it is.

    `workers` is the number of processes. If several processes call this at the same time (the ranks of one run), one
    builds the cache and the others wait. Damaged files of a cache are built again, with a warning. Raises DataError
    that names the structure whose neighbours cannot be found, and DiskError if the folder cannot be written.
    """
    if not graph.has_edges:
        raise DataError(f"a {graph.kind} graph has no edges to cache: choose radius or nearest.")
    folder = folder_of(dataset, graph)
    try:
        with lock(folder / ".lock"):
            sweep_up(folder, alone=True)
            found = survey(dataset, graph)
            if found.fault and not found.is_foreign:
                warnings.warn(f"{found.fault}; its edges are found again.", stacklevel=2)
            if not found.is_whole:
                _build(dataset, graph, folder, workers, progress, found.sound)
            for parts in folder.glob(".parts-*"):  # the cache is complete
                remove(parts)
    except DiskError as error:
        raise error.told(
            "Edges are stored beside the dataset: copy the dataset to a disk that can be written and has room, or "
            "search neighbours for every batch (--set data.cache_graphs=false, without a limit batch.edges)."
        ) from None
    dataset.forget_graphs()
    return EdgeCache(folder, sizes_of(dataset))


def _build(
    dataset: PackedDataset,
    graph: Graph,
    folder: Path,
    workers: int,
    progress: Reporter,
    kept: dict[int, dict[str, Any]],
) -> None:
    """Build the files of a cache, except undamaged ones.

    `kept` has the entries of the manifest for the undamaged files, by file number.
    """
    if not kept:
        remove(folder / MANIFEST)
    identity = identity_of(dataset, graph)
    parts = folder / f".parts-{identity['dataset'][:16]}-{graph.cutoff!r}"
    for other in folder.glob(".parts-*"):
        if other != parts:  # pieces of other data
            remove(other)
    make_folder(parts)
    sweep_up(parts, alone=True)
    pieces = [piece for piece in _pieces(sizes_of(dataset)) if piece[0] not in kept]
    done = len(dataset) - sum(last - first for _, first, last in pieces)
    tasks = ((dataset, graph, a, b, parts / _name(a, b)) for _, a, b in pieces)
    for _, n in in_processes(_search, tasks, min(workers, len(pieces))):
        done += n
        progress.stage("Neighbour lists", done, len(dataset))
    files: list[dict[str, Any]] = []
    for shard in range(len(dataset.manifest.shards)):
        if shard in kept:
            files.append(kept[shard])
            continue
        members = [map_arrays(parts / _name(a, b)) for owner, a, b in pieces if owner == shard]
        path = folder / file_of(shard)
        digest = write_arrays(path, _joined(members)) if members else None
        files.append({"file": path.name, "sha256": digest, "n_edges": sum(len(m["neighbor"]) for m in members)})
    manifest = {"identity": identity, "n_edges": sum(f["n_edges"] for f in files), "files": files}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1))


def _search(dataset: PackedDataset, graph: Graph, first: int, last: int, path: Path) -> int:
    """Find the edges of structures `first` to `last` − 1 and write them to the file `path`.

    Nothing is done if the file exists and is undamaged. Returns the number of structures.
    """
    seal = path.with_suffix(".sha256")
    if path.is_file() and seal.is_file() and seal.read_text(encoding="utf-8") == sha256_of(path):
        return last - first
    indices, shifts, degrees, n_atoms = [], [], [], list[int]()

    def crystals() -> Iterator[Crystal]:
        for row in range(first, last):
            s = dataset.structure(row)
            n_atoms.append(len(s))
            yield f"{dataset.path}: structure {row}", s.positions, s.cell, s.pbc

    for (j, i), shift in edges_of_each(crystals(), graph):
        indices.append(j)
        shifts.append(shift)
        degrees.append(np.bincount(i, minlength=n_atoms[-1]))
    arrays = {
        "atom_ptr": _pointer(n_atoms),
        "edge_ptr": _pointer([len(i) for i in indices]),
        "neighbor": _narrow(np.concatenate(indices)),
        "shift": _narrow(np.concatenate(shifts)),
        "degree": _narrow(np.concatenate(degrees)),
    }
    write_text(seal, write_arrays(path, {name: [array] for name, array in arrays.items()}))
    return last - first


def _joined(pieces: list[dict[str, NDArray[Any]]]) -> dict[str, list[NDArray[Any]]]:
    columns = {name: [piece[name] for piece in pieces] for name in ("neighbor", "shift", "degree")}
    for name in ("atom_ptr", "edge_ptr"):
        columns[name] = [_pointer(np.concatenate([np.diff(piece[name]) for piece in pieces]))]
    return columns


def _pointer(counts: list[int] | NDArray[np.integer]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _narrow(x: NDArray[Any]) -> NDArray[Any]:
    """Convert to the narrowest integers that hold all values.

    They are signed for shifts, which have shape [n_edges, 3], and unsigned for other arrays.
    """
    kinds = (np.int8, np.int16, np.int32) if x.ndim == 2 else (np.uint8, np.uint16, np.uint32)
    for kind in kinds:
        if not x.size or (x.min() >= np.iinfo(kind).min and x.max() <= np.iinfo(kind).max):
            return x.astype(kind)
    raise AssertionError("vesin counts shifts and atoms in 32 bits")


def _pieces(sizes: list[int]) -> Iterator[tuple[int, int, int]]:
    """Divide the dataset into pieces. Each piece belongs to one shard.

    A piece is (number of the shard, first structure, last structure + 1).
    """
    start = 0
    for shard, size in enumerate(sizes):
        for first in range(start, start + size, PIECE):
            yield shard, first, min(first + PIECE, start + size)
        start += size


def _name(first: int, last: int) -> str:
    return f"{first:012d}-{last:012d}.safetensors"
