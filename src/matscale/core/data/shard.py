"""One file of a packed dataset: flat arrays in the safetensors layout, written piece by piece and read by mapping.

The layout (8 bytes of header length, a JSON header, the arrays one after another) is that of
https://github.com/huggingface/safetensors, so that any safetensors library opens a shard. It is written here by hand
because a shard is put together from pieces that need not be in memory at once, and mapped by hand because a batch is
gathered from plain NumPy views. Arrays of wide items come first: every one is aligned to its item size.

| array | dtype and shape | unit |
|---|---|---|
| atom_ptr | int64 [n + 1] | atoms of structure s are atom_ptr[s] .. atom_ptr[s + 1] |
| group | int64 [n] | hash of the group's name |
| energy, cell, stress | float64 [n], [n, 3, 3], [n, 3, 3] | eV, Å, eV/Å³; NaN where missing |
| positions, forces | float64 or float32 [N, 3] | Å, eV/Å; NaN where missing |
| source | int32 [n] | index into the manifest's sources |
| atomic_numbers | uint8 [N] | |
| pbc | uint8 [n, 3] | |
| has_energy, has_forces, has_stress | uint8 [n] | 1 where the label exists |
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matscale.core.data.structure import Structure
from matscale.core.errors import DataError

Arrays = Mapping[str, NDArray[Any]]

LABELS = ("energy", "forces", "stress")

_PER_STRUCTURE: dict[str, tuple[str, tuple[int, ...]]] = {
    "group": ("<i8", ()),
    "energy": ("<f8", ()),
    "cell": ("<f8", (3, 3)),
    "stress": ("<f8", (3, 3)),
    "source": ("<i4", ()),
    "pbc": ("|u1", (3,)),
    "has_energy": ("|u1", ()),
    "has_forces": ("|u1", ()),
    "has_stress": ("|u1", ()),
}
_PER_ATOM: dict[str, tuple[str, tuple[int, ...]]] = {
    "positions": ("<f8", (3,)),
    "forces": ("<f8", (3,)),
    "atomic_numbers": ("|u1", ()),
}
_TYPES = {"<i8": "I64", "<f8": "F64", "<f4": "F32", "<i4": "I32", "|u1": "U8"}
_DTYPES = {name: np.dtype(code) for code, name in _TYPES.items()}
_MAX_HEADER = 1 << 20


def group_hash(name: str) -> int:
    """A stable non-negative 63-bit integer for the name of a group."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def arrays_of(structures: Sequence[Structure], sources: Sequence[int]) -> dict[str, NDArray[Any]]:
    """The arrays of a shard that holds `structures`, read from the sources with these numbers."""
    n, counts = len(structures), [len(s) for s in structures]
    none3, atoms = np.full((3, 3), np.nan), np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    has = {f"has_{label}": [getattr(s, label) is not None for s in structures] for label in LABELS}
    values: dict[str, Any] = {
        "atom_ptr": atoms,
        "group": [group_hash(s.group) for s in structures],
        "energy": [np.nan if s.energy is None else s.energy for s in structures],
        "cell": [s.cell for s in structures],
        "stress": [none3 if s.stress is None else s.stress for s in structures],
        "source": sources,
        "pbc": [s.pbc for s in structures],
        "positions": _concatenate([s.positions for s in structures]),
        "forces": _concatenate([np.full((len(s), 3), np.nan) if s.forces is None else s.forces for s in structures]),
        "atomic_numbers": np.concatenate([s.atomic_numbers for s in structures]) if n else [],
        **has,
    }
    return {
        "atom_ptr": values.pop("atom_ptr"),
        **{
            name: np.asarray(values[name], dtype=dtype).reshape(-1, *shape)
            for name, (dtype, shape) in {**_PER_STRUCTURE, **_PER_ATOM}.items()
        },
    }


def _concatenate(parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate(parts) if parts else np.zeros((0, 3))


def narrowed(arrays: Arrays, precision: str) -> dict[str, NDArray[Any]]:
    """The same arrays with positions and forces in `precision`, "float64" or "float32"."""
    return {k: v.astype(precision) if k in ("positions", "forces") else v for k, v in arrays.items()}


def n_bytes(arrays: Arrays) -> int:
    """Size of these arrays on disk."""
    return sum(a.nbytes for a in arrays.values())


def write_shard(path: Path, pieces: Sequence[Arrays]) -> str:
    """Write the pieces, one after another, as one shard; return its SHA-256.

    The file appears under its name only when it is complete and on the disk. Pieces may be mapped files: they are
    copied array by array, so that memory does not grow with the shard.
    """
    joined = _join_pointers(pieces)
    names = sorted(pieces[0], key=lambda name: (-pieces[0][name].dtype.itemsize, name))
    header, start = {}, 0
    for name in names:
        rows = len(joined) if name == "atom_ptr" else sum(len(piece[name]) for piece in pieces)
        first = pieces[0][name]
        end = start + rows * first.dtype.itemsize * int(np.prod(first.shape[1:], dtype=np.int64))
        header[name] = {
            "dtype": _TYPES[first.dtype.str],
            "shape": [rows, *first.shape[1:]],
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary, digest = path.with_name(f".{path.name}.{os.getpid()}.tmp"), hashlib.sha256()
    try:
        with open(temporary, "wb") as file:
            for block in (len(text).to_bytes(8, "little"), text):
                digest.update(block)
                file.write(block)
            for name in names:
                for array in [joined] if name == "atom_ptr" else (piece[name] for piece in pieces):
                    view = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
                    digest.update(view)
                    file.write(view)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return digest.hexdigest()


def _join_pointers(pieces: Sequence[Arrays]) -> NDArray[np.int64]:
    counts = [np.diff(piece["atom_ptr"]) for piece in pieces]
    return np.concatenate([[0], np.cumsum(np.concatenate(counts), dtype=np.int64)])


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def map_shard(path: Path) -> dict[str, NDArray[Any]]:
    """Read-only views of a shard's arrays; nothing but the header is read. Raises DataError for a damaged file."""
    try:
        with open(path, "rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be mapped ({error}). {_AGAIN}") from None
    size = int.from_bytes(buffer[:8], "little")
    try:
        if not 0 < size <= min(_MAX_HEADER, len(buffer) - 8):
            raise ValueError(f"a header of {size} bytes in a file of {len(buffer)}")
        header = json.loads(buffer[8 : 8 + size])
        arrays = {name: _view(buffer, 8 + size, entry) for name, entry in header.items() if name != "__metadata__"}
        _check_shapes(arrays)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is not a whole shard ({error}). {_AGAIN}") from None
    return arrays


_AGAIN = "Copy it again from where it was packed, or pack the dataset again (`matscale data pack`)."


def _view(buffer: mmap.mmap, offset: int, entry: dict[str, Any]) -> NDArray[Any]:
    start, end = entry["data_offsets"]
    dtype, shape = _DTYPES[entry["dtype"]], tuple(int(k) for k in entry["shape"])
    count = int(np.prod(shape, dtype=np.int64))
    if end - start != count * dtype.itemsize or start < 0 or offset + end > len(buffer):
        raise ValueError(f"array at bytes {start} to {end} does not fit the file of {len(buffer)} bytes")
    return np.frombuffer(buffer, dtype, count, offset + start).reshape(shape)


def _check_shapes(arrays: Arrays) -> None:
    pointer = arrays["atom_ptr"]
    n, n_atoms = len(pointer) - 1, int(pointer[-1])
    for names, rows in ((_PER_STRUCTURE, n), (_PER_ATOM, n_atoms)):
        for name, (_, shape) in names.items():
            if arrays[name].shape != (rows, *shape):
                raise ValueError(f"{name} has shape {arrays[name].shape}, expected {(rows, *shape)}")


def sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
