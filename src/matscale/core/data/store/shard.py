"""Shard: one file of a packed dataset, with the arrays of many structures one after another.

`matscale.core.data.store.arrays` describes the layout of the file. Arrays, for n structures with N atoms in all:

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
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matscale.core.data.near_origin import brought_near
from matscale.core.data.store.arrays import Arrays, map_arrays, write_arrays
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
    """Hash the name of a group to a non-negative 63-bit integer, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def arrays_of(structures: Sequence[Structure], sources: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Make the arrays of a shard from `structures`.

    `sources` has the number of the source of each structure.
    """
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
    """Round positions and forces to `precision`, "float64" or "float32". Other arrays are not changed.

    Before rounding to float32, structures far from the origin are moved near it. This changes no distance between atoms
    or their periodic images.
    """
    if precision == "float32":
        counts = np.diff(arrays["atom_ptr"])
        near, _ = brought_near(arrays["positions"], counts, arrays["cell"], arrays["pbc"].astype(bool))
        arrays = {**arrays, "positions": near}
    return {k: v.astype(precision) if k in ("positions", "forces") else v for k, v in arrays.items()}


def write_shard(path: Path, pieces: Sequence[Arrays]) -> str:
    """Write pieces, one after another, as one shard. Returns the SHA-256 of the file. See `write_arrays`."""
    columns = {name: [piece[name] for piece in pieces] for name in pieces[0]}
    return write_arrays(path, {**columns, "atom_ptr": [_join_pointers(pieces)]})


def _join_pointers(pieces: Sequence[Arrays]) -> NDArray[np.int64]:
    counts = [np.diff(piece["atom_ptr"]) for piece in pieces]
    return np.concatenate([[0], np.cumsum(np.concatenate(counts), dtype=np.int64)])


def smallest(n_structures: int, n_atoms: int) -> int:
    """Least possible size [bytes] of a shard with so many structures and atoms, in single precision."""
    per_structure = 8 + sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in _PER_STRUCTURE.values())
    return n_structures * per_structure + n_atoms * (1 + 2 * 3 * 4)


def map_shard(path: Path) -> dict[str, NDArray[Any]]:
    """Map the arrays of a shard as read-only views. Only the header is read.

    Raises DataError for a damaged file. The values of the arrays are checked by `check_shard`, not here.
    """
    try:
        found = map_arrays(path)
        arrays = {name: found[name] for name in ("atom_ptr", *_PER_STRUCTURE, *_PER_ATOM)}
        _check_shapes(arrays)
    except OSError as error:
        raise DataError(f"{path}: cannot be mapped ({error}). {_AGAIN}") from None
    except KeyError as error:
        raise DataError(f"{path}: is not a whole shard (it has no array {error}). {_AGAIN}") from None
    except ValueError as error:
        raise DataError(f"{path}: is not a whole shard ({error}). {_AGAIN}") from None
    return arrays


_AGAIN = "Copy it again from where it was packed, or pack the dataset again (`matscale data pack`)."


def _check_shapes(arrays: Arrays) -> None:
    pointer = arrays["atom_ptr"]
    if pointer.dtype != "<i8" or pointer.ndim != 1 or not len(pointer):
        raise ValueError(f"atom_ptr is {pointer.dtype} {pointer.shape}, expected int64 [n + 1]")
    n, n_atoms = len(pointer) - 1, int(pointer[-1])
    for names, rows in ((_PER_STRUCTURE, n), (_PER_ATOM, n_atoms)):
        for name, (dtype, shape) in names.items():
            array = arrays[name]
            if array.shape != (rows, *shape):
                raise ValueError(f"{name} has shape {array.shape}, expected {(rows, *shape)}")
            if array.dtype != dtype and not (name in ("positions", "forces") and array.dtype == "<f4"):
                raise ValueError(f"{name} is {array.dtype}, expected {np.dtype(dtype)}")


def check_shard(arrays: Arrays, n_sources: int) -> None:
    """Check the values in a shard. Raises ValueError that names the first wrong structure.

    `n_sources` is the number of sources of the dataset. The memory needed grows with the number of structures, but not
    with the number of atoms.
    """
    pointer, z = arrays["atom_ptr"], arrays["atomic_numbers"]
    if pointer[0] != 0:
        raise ValueError(f"atom_ptr begins at {pointer[0]}, not at 0")
    if len(pointer) == 1:
        return
    _refuse(pointer[1:] <= pointer[:-1], "atom_ptr decreases, or gives the structure no atoms")
    if z.min() < 1 or z.max() > 118:
        wrong = int(np.argmax((z < 1) | (z > 118)))
        structure = int(np.searchsorted(pointer, wrong, side="right")) - 1
        raise ValueError(f"structure {structure} has an atomic number {z[wrong]}, outside 1 to 118")
    for name in ("pbc", "has_energy", "has_forces", "has_stress"):
        _refuse(_rowwise(arrays[name] > 1), f"{name} is neither 0 nor 1")
    _refuse(
        (arrays["source"] < 0) | (arrays["source"] >= n_sources),
        f"source is not the index of a source; number of sources: {n_sources}",
    )
    _refuse(arrays["group"] < 0, "group is negative")
    _refuse(~_finite(arrays["positions"], pointer), "positions are not finite")
    _refuse(~_rowwise(np.isfinite(arrays["cell"]), np.all), "the cell is not finite")
    has = {label: arrays[f"has_{label}"].astype(bool) for label in LABELS}
    _refuse(np.isfinite(arrays["energy"]) != has["energy"], "energy and has_energy disagree")
    _refuse(_rowwise(np.isfinite(arrays["stress"]), np.all) != has["stress"], "stress and has_stress disagree")
    _refuse(_finite(arrays["forces"], pointer) != has["forces"], "forces and has_forces disagree")


def _refuse(wrong: NDArray[np.bool_], complaint: str) -> None:
    if wrong.any():
        raise ValueError(f"structure {int(np.argmax(wrong))} of the file: {complaint}")


def _rowwise(claims: NDArray[np.bool_], combine: Any = np.any) -> NDArray[np.bool_]:
    return np.asarray(combine(claims, axis=tuple(range(1, claims.ndim))))


def _finite(per_atom: NDArray[Any], pointer: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return an array [n_structures] that is True where all values of a structure are finite.

    The rows of structure s in `per_atom` [n_atoms, 3] begin at pointer[s] and end before pointer[s + 1].
    """
    with np.errstate(over="ignore", invalid="ignore"):
        # A sum is finite only if all terms are, and costs less than looking at each.
        finite = np.isfinite(np.add.reduceat(per_atom.reshape(-1), 3 * pointer[:-1]))
    for row in np.flatnonzero(~finite):
        finite[row] = np.isfinite(per_atom[pointer[row] : pointer[row + 1]]).all()
    return finite


def windows(arrays: Arrays, size: int = 1 << 16) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the structures of a shard, `size` at a time, as arrays like those of a shard.

    In each of them, `atom_ptr` begins at 0.
    """
    pointer = arrays["atom_ptr"]
    for start in range(0, len(pointer) - 1, size):
        stop = min(start + size, len(pointer) - 1)
        a, b = int(pointer[start]), int(pointer[stop])
        per_atom = ("positions", "forces", "atomic_numbers")
        yield {
            "atom_ptr": pointer[start : stop + 1] - a,
            **{k: v[a:b] if k in per_atom else v[start:stop] for k, v in arrays.items() if k != "atom_ptr"},
        }
