"""Readers of ASE databases, and of all other files that ASE reads: VASP output, CIF, trajectories, ..."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from matscale.plugin import CALCULATOR, DataError, Frame, Unusable, from_ase

_DATABASES = {".db": rb"SQLite format 3\0", ".json": rb"\s*\{\s*\"(\d+|ids|metadata)\"\s*:"}
"""First bytes of an ASE database, by suffix. They are checked, since settings and notes may have the same suffix."""
_NOT_STRUCTURES = {"castep-md", "dlp4", "gamess-us-in", "gaussian-in", "mustem", "eon"}
_AMBIGUOUS = {"*.md", "*.log", "*.dat", "*.in", "*.data", "*config*", "*.json", "inp", "34", "*.34", "gradient"}
"""File patterns of ASE that are not used, since they also match notes, logs and settings."""


def matches_db(path: Path) -> bool:
    if path.suffix not in _DATABASES or not path.is_file():
        return False
    with open(path, "rb") as file:
        return re.match(_DATABASES[path.suffix], file.read(256)) is not None


def count_db(path: Path) -> int:
    return int(_connected(path).count())


def read_db(path: Path, start: int, stop: int | None) -> Iterator[Frame]:
    limit = None if stop is None else stop - start
    database = _connected(path)
    metadata = dict(database.metadata)
    for row in database.select(offset=start, limit=limit):
        atoms = row.toatoms(add_additional_information=False)
        structure = from_ase(atoms, f"{path} id {row.id}")
        results = {k: v for k, v in structure.info.items() if k.startswith(CALCULATOR)}
        structure.info = {**structure.info, **row.key_value_pairs, **(row.data or {}), **results}
        structure.metadata = metadata
        yield structure


def _connected(path: Path) -> Any:
    from ase.db import connect  # start-up: ase

    try:
        database = connect(str(path), use_lock_file=False)
        database.count()
    except Exception as error:  # sqlite3, JSON and ASE errors of many kinds
        raise DataError(f"{path}: is not an ASE database ({type(error).__name__}: {error}).") from None
    return database


@cache
def _patterns() -> list[str]:
    from ase.io.formats import ioformats  # start-up: ase

    readable = [f for name, f in ioformats.items() if f.can_read and name not in _NOT_STRUCTURES]
    return [
        pattern.lower()
        for form in readable
        for pattern in [*(f"*.{e}" for e in form.extensions), *(g for g in form.globs if g.strip("*."))]
        if pattern.lower() not in _AMBIGUOUS
    ]


def matches(path: Path) -> bool:
    return any(fnmatch.fnmatch(path.name.lower(), pattern) for pattern in _patterns())


def _refuse_types(path: Path) -> None:
    """Raises DataError for a LAMMPS dump that has types of atoms but no elements.

    ASE would read type 1 as hydrogen and type 2 as helium.
    """
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    columns = re.search(rb"^ITEM: ATOMS (.*)$", head, re.MULTILINE) if head.startswith(b"ITEM:") else None
    if columns and not {b"element", b"mass"} & {*columns[1].split()}:
        raise DataError(
            f"{path}: is a LAMMPS dump with types of atoms, but without their elements. Write it with the column "
            "element: dump_modify ID element Ni Cu."
        )


def read(path: Path, start: int, stop: int | None) -> Iterator[Frame]:
    from ase.io import iread  # start-up: ase

    number = start
    _refuse_types(path)
    try:
        for atoms in iread(str(path), index=slice(start, stop), do_not_split_by_at_sign=True):
            try:
                frame: Frame = from_ase(atoms, f"{path} structure {number}")
            except Unusable as fault:
                frame = fault
            yield frame
            number += 1
    except (MemoryError, DataError):
        raise
    except Exception as error:  # ASE's readers may raise any error
        raise DataError(
            f"{path}: ASE cannot read structure {number} ({type(error).__name__}: {error}). "
            "Convert the file with `ase convert`, or leave it out."
        ) from None
