"""Reader of `.aselmdb`: structures as zlib-compressed JSON in an LMDB file, the format of OMat24.

Two dialects are read, without ase.db: until April 2025, fairchem wrote arrays as nested lists and NaN as null (the
OMat24 archives); ase-db-backends writes {"__ndarray__": [shape, dtype, flat]}, and NaN as NaN. Only one structure's
JSON is in memory at a time, limited to `Limits.structure`: an entry that would inflate to gigabytes is refused. LMDB
crashes on damaged files, so this reader runs in a guarded process (`matscale.core.data.sources.guard`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matscale.plugin import (
    CALCULATOR,
    DataError,
    Frame,
    Structure,
    Unusable,
    bytes_as_text,
    current_limits,
    whole_numbers,
)

_LABELS = ("energy", "forces", "stress", "free_energy")
_RESULTS = ("magmom", "magmoms", "charges", "dipole", "energies", "stresses", "polarization", "dielectric_tensor")
_PER_ATOM = ("tags", "initial_magmoms", "initial_charges", "masses", "momenta")
"""Values per atom that ase.Atoms stores in its arrays."""


def matches(path: Path) -> bool:
    return path.suffix == ".aselmdb"


def count(path: Path) -> int:
    with _transaction(path) as transaction:
        return len(_ids(transaction, path))


def read(path: Path, start: int, stop: int | None) -> Iterator[Frame]:
    with _transaction(path) as transaction:
        metadata = _metadata(transaction, path)
        for number in _ids(transaction, path)[start:stop].tolist():
            frame = _row(transaction.get(b"%d" % number), f"{path} id {number}")
            if isinstance(frame, Structure):
                frame.metadata = metadata
            yield frame


@contextmanager
def _transaction(path: Path) -> Iterator[Any]:
    import lmdb  # start-up: lmdb

    try:
        environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=True, meminit=False)
    except lmdb.Error as error:
        raise DataError(f"{path}: is not an LMDB file, or is damaged ({error}). Download it again.") from None
    with environment:
        # Reading beyond the end of a truncated file would kill the process.
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if path.stat().st_size < needed:
            raise DataError(f"{path}: has {path.stat().st_size} of {needed} bytes. Download it again.")
        with environment.begin() as transaction:
            yield transaction


def _ids(transaction: Any, path: Path) -> NDArray[np.int64]:
    """List the ids of the structures, ascending."""
    following, deleted = (transaction.get(key) for key in (b"nextid", b"deleted_ids"))
    if following is None:
        raise DataError(f"{path}: is not an ASE database, but an LMDB file without the key 'nextid'.")
    try:
        end = _decode(following)
        gone = np.unique(np.array(_decode(deleted) if deleted is not None else [], dtype=np.int64))
        if not isinstance(end, int) or end < 1:
            raise ValueError(f"nextid = {str(end)[:40]}")
        # The stated number of keys may be damaged, so it is limited by the size of the file.
        entries = min(int(transaction.stat()["entries"]), path.stat().st_size // 16)
        if end - 1 - len(gone) > 2 * entries:
            raise ValueError(f"nextid = {end}, and the file has {entries:,} entries")
        return np.setdiff1d(np.arange(1, end, dtype=np.int64), gone, assume_unique=True)
    except (Unusable, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{path}: 'nextid' or 'deleted_ids' is damaged ({error}). Download it again.") from None


def _metadata(transaction: Any, path: Path) -> dict[str, Any]:
    """Read the metadata of the file, such as units, which apply to all its structures."""
    value = transaction.get(b"metadata")
    try:
        metadata = _decode(value) if value is not None else {}
    except Unusable as fault:
        raise DataError(f"{path}: 'metadata' is damaged ({fault.detail}). Download it again.") from None
    return metadata if isinstance(metadata, dict) else {}


def _decode(value: bytes) -> Any:
    """Decode an entry. Raises Unusable if the entry is not zlib-compressed JSON, or inflates beyond the limit."""
    inflater, most = zlib.decompressobj(), current_limits().structure
    try:
        text = inflater.decompress(value, most)
        if not inflater.eof:
            what = (
                f"inflates beyond {bytes_as_text(most)} (--limit structure=...)" if len(text) >= most else "is cut off"
            )
            raise Unusable("unreadable", f"its compressed JSON of {len(value)} bytes {what}")
        return json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise Unusable("unreadable", f"not zlib-compressed JSON ({error})") from None


def _row(value: bytes | None, source: str) -> Frame:
    try:
        if value is None:
            raise Unusable("unreadable", "the database has no row with this id")
        row = _decode(value)
        cell = row["cell"]
        structure = Structure(
            atomic_numbers=whole_numbers(_array(row["numbers"])),
            positions=_array(row["positions"]).reshape(-1, 3),
            cell=_array(cell["array"] if isinstance(cell, dict) and "array" in cell else cell).reshape(3, 3),
            pbc=np.broadcast_to(_array(row["pbc"]).astype(bool), 3).copy(),
            source=source,
        )
        structure.info = {CALCULATOR + k: _array(row[k]) for k in _LABELS if row.get(k) is not None}
        structure.info |= {CALCULATOR + k: _kept(row[k]) for k in _RESULTS if row.get(k) is not None}
        structure.per_atom = [k for k in _PER_ATOM if row.get(k) is not None]
        structure.info |= {k: _kept(row[k]) for k in structure.per_atom}
        for extra in ("key_value_pairs", "data"):
            structure.info |= {key: _kept(entry) for key, entry in (row.get(extra) or {}).items()}
        return structure
    except Unusable as fault:
        return Unusable(fault.reason, f"{source}: {fault.detail}")
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        return Unusable("unreadable", f"{source}: {type(error).__name__}: {error}")


def _kept(value: Any) -> Any:
    """Convert a value other than a label: arrays of the new dialect become numpy arrays, other values do not change."""
    if not (isinstance(value, dict) and "__ndarray__" in value):
        return value
    shape, _, flat = value["__ndarray__"]
    return np.array(flat).reshape(shape)


def _array(value: Any) -> NDArray[np.float64]:
    """Convert an array of either dialect, null to NaN; integers are exact in float64 up to 2^53."""
    if isinstance(value, dict):
        shape, _, flat = value["__ndarray__"]
        return np.array(flat, dtype=np.float64).reshape(shape)
    return np.array(value, dtype=np.float64)
