"""One file of a packed dataset: the arrays of many structures, one after another.

How arrays lie in a file: `matscale.core.data.arrays`.

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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matscale.core.data.arrays import Arrays, map_arrays, write_arrays
from matscale.core.data.nearby import brought_near
from matscale.core.data.structure import Structure
from matscale.core.errors import DataError

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
    """The same arrays with positions and forces in `precision`, "float64" or "float32".

    Before positions are rounded, atoms far from the origin are brought near it by what changes no physics.
    """
    if precision == "float32":
        counts = np.diff(arrays["atom_ptr"])
        near, _ = brought_near(arrays["positions"], counts, arrays["cell"], arrays["pbc"].astype(bool))
        arrays = {**arrays, "positions": near}
    return {k: v.astype(precision) if k in ("positions", "forces") else v for k, v in arrays.items()}


def write_shard(path: Path, pieces: Sequence[Arrays]) -> str:
    """Write the pieces, one after another, as one shard; return its SHA-256. See `write_arrays`."""
    columns = {name: [piece[name] for piece in pieces] for name in pieces[0]}
    return write_arrays(path, {**columns, "atom_ptr": [_join_pointers(pieces)]})


def _join_pointers(pieces: Sequence[Arrays]) -> NDArray[np.int64]:
    counts = [np.diff(piece["atom_ptr"]) for piece in pieces]
    return np.concatenate([[0], np.cumsum(np.concatenate(counts), dtype=np.int64)])


def map_shard(path: Path) -> dict[str, NDArray[Any]]:
    """Read-only views of a shard's arrays; nothing but the header is read. Raises DataError for a damaged file."""
    try:
        arrays = map_arrays(path)
        _check_shapes(arrays)
    except OSError as error:
        raise DataError(f"{path}: cannot be mapped ({error}). {_AGAIN}") from None
    except (ValueError, KeyError) as error:
        raise DataError(f"{path}: is not a whole shard ({error}). {_AGAIN}") from None
    return arrays


_AGAIN = "Copy it again from where it was packed, or pack the dataset again (`matscale data pack`)."


def _check_shapes(arrays: Arrays) -> None:
    pointer = arrays["atom_ptr"]
    n, n_atoms = len(pointer) - 1, int(pointer[-1])
    for names, rows in ((_PER_STRUCTURE, n), (_PER_ATOM, n_atoms)):
        for name, (_, shape) in names.items():
            if arrays[name].shape != (rows, *shape):
                raise ValueError(f"{name} has shape {arrays[name].shape}, expected {(rows, *shape)}")


def windows(arrays: Arrays, size: int = 1 << 16) -> Iterator[dict[str, NDArray[Any]]]:
    """The structures of a shard, `size` at a time, as arrays of the same names (atom_ptr starts at 0)."""
    pointer = arrays["atom_ptr"]
    for start in range(0, len(pointer) - 1, size):
        stop = min(start + size, len(pointer) - 1)
        a, b = int(pointer[start]), int(pointer[stop])
        per_atom = ("positions", "forces", "atomic_numbers")
        yield {
            "atom_ptr": pointer[start : stop + 1] - a,
            **{k: v[a:b] if k in per_atom else v[start:stop] for k, v in arrays.items() if k != "atom_ptr"},
        }
