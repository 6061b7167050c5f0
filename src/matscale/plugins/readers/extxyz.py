"""Reader of extended XYZ, plain or compressed, which reads a file once from beginning to end.

ASE's reader seeks back and forth, and decompresses a compressed file from the beginning for every structure (35
structures/s from .xz). `comment` parses comment lines.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matscale.plugin import DataError, Frame, Lines, Structure, Unusable, whole_numbers
from matscale.plugins.readers.comment import parse_comment

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SUFFIXES = (".extxyz", ".xyz")


_OPEN: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open, ".zst": zstd.open}
_UNREADABLE = (ValueError, EOFError, OSError, lzma.LZMAError, zlib.error, zstd.ZstdError)


def matches(path: Path) -> bool:
    stem = path.name[: -len(path.suffix)] if path.suffix.lower() in _OPEN else path.name
    return stem.lower().endswith(SUFFIXES)


class _Stream:
    """A file that is open for reading, with the number of the structure that is read next."""

    def __init__(self, path: Path) -> None:
        self.path, self.next = path, 0
        suffix = path.suffix.lower()
        file = _OPEN.get(suffix, open)(path, "rt", encoding="utf-8")
        self._file = Lines(path, file, suffix in _OPEN)
        self._line = 0

    def frame(self) -> list[str] | None:
        """Read the comment line and the lines of atoms of the next structure; None at the end of the file."""
        try:
            self._file.begin()
            head = self._file.line()
            while head and not head.strip():
                head = self._file.line()
                self._line += 1
            if not head:
                return None
            n_atoms = int(head)
            if n_atoms < 0:
                raise ValueError(f"it announces {n_atoms} atoms, which is negative")
            if n_atoms > self._file.limits.atoms:
                raise ValueError(f"it announces {n_atoms:.4g} atoms (--limit atoms=... allows more)")
            lines = self._file.take(n_atoms + 1)  # ends with the file, whatever number it states
        except _UNREADABLE as error:
            raise self._broken(str(error)) from None
        if len(lines) <= n_atoms:
            raise self._broken(f"it ends within a structure of {n_atoms} atoms")
        self._line += n_atoms + 2
        self.next += 1
        return lines

    def _broken(self, what: str) -> DataError:
        return DataError(
            f"{self.path}: structure {self.next} (counted from 0, after line {self._line}) cannot be read: {what}. "
            "Each structure is a line with its number of atoms, a comment line and a line per atom."
        )

    def close(self) -> None:
        self._file.close()


_last: dict[str, _Stream] = {}
"""Stream that was read last. Requests come in ascending order, so that the next request continues from there."""


def _stream_at(path: Path, start: int) -> _Stream:
    stream = _last.pop("stream", None)
    if stream is None or stream.path != path or stream.next > start:
        if stream is not None:
            stream.close()
        stream = _Stream(path)
    while stream.next < start and stream.frame() is not None:
        pass
    return stream


def read(path: Path, start: int, stop: int | None) -> Iterator[Frame]:
    stream = _stream_at(path, start)
    try:
        while stop is None or stream.next < stop:
            number = stream.next
            lines = stream.frame()
            if lines is None:
                break
            yield _parse(lines, f"{path} structure {number}")
    except BaseException:
        stream.close()
        raise
    if "stream" in _last:
        _last.pop("stream").close()
    if stop is None:
        stream.close()
    else:
        _last["stream"] = stream


def count(path: Path) -> int:
    stream = _Stream(path)
    try:
        while stream.frame() is not None:
            pass
        return stream.next
    finally:
        stream.close()


def _parse(lines: list[str], source: str) -> Frame:
    try:
        info = parse_comment(lines[0])
        cell = _cell(_special(info, "Lattice"))
        pbc = _pbc(_special(info, "pbc"), bool(cell.any()))
        properties = _special(info, "Properties")
        columns, notes = _columns(lines[1:], str(properties or "species:S:1:pos:R:3"))
        if "pos" not in columns or not {"species", "Z"} & {*columns}:
            raise Unusable(
                "unreadable", f"Properties has the columns {', '.join(columns)[:200]}; species and pos are needed"
            )
        numbers = whole_numbers(columns.pop("Z")) if "Z" in columns else _numbers(columns.pop("species").tolist())
        positions = columns.pop("pos").astype(np.float64)
    except Unusable as fault:
        return Unusable(fault.reason, fault.detail if source in fault.detail else f"{source}: {fault.detail}")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        return Unusable("unreadable", f"{source}: {type(error).__name__}: {error}")
    columns.pop("species", None)
    for name in ("stress", "virial"):  # nine numbers in one array are read column by column, as in ASE
        if np.shape(info.get(name, ())) == (9,):
            info[name] = np.reshape(info[name], (3, 3), order="F")
    return Structure(
        atomic_numbers=numbers,
        positions=positions,
        cell=cell,
        pbc=pbc,
        source=source,
        info={**info, **columns},
        per_atom=list(columns),
        notes=notes,
    )


def _special(info: dict[str, Any], name: str) -> Any:
    """Take a key of the format out of `info`, ignoring case; None if it is missing."""
    if name in info:
        return info.pop(name)
    return next((info.pop(key) for key in list(info) if key.lower() == name.lower()), None)


def _cell(lattice: Any) -> NDArray[np.float64]:
    """Parse the cell [3, 3]: nine numbers (vector by vector), 3×3, or the three of a diagonal; None means zeros."""
    if lattice is None:
        return np.zeros((3, 3))
    numbers = np.asarray(lattice, dtype=np.float64)
    if numbers.size not in (3, 9):
        raise Unusable("unreadable", f"Lattice has {numbers.size} numbers; it needs 9, or the 3 of a diagonal cell")
    return np.diag(numbers.reshape(-1)) if numbers.size == 3 else numbers.reshape(3, 3)


def _pbc(given: Any, has_cell: bool) -> NDArray[np.bool_]:
    """Parse the periodicity [3] from one flag or three: true and false, 1 and 0, or letters such as TTF."""
    if given is None:
        return np.full(3, has_cell)
    if isinstance(given, str) and len(given) == 3 and set(given.upper()) <= {"T", "F"}:
        given = [letter == "T" for letter in given.upper()]
    flags = np.asarray(given)
    if flags.size not in (1, 3) or flags.dtype.kind not in "bi" or not np.isin(flags, (0, 1)).all():
        raise Unusable("unreadable", f"pbc = {given!r}: it needs one flag, T or F, or three such as 'T T F'")
    return np.broadcast_to(flags.reshape(-1).astype(bool), 3).copy()


_KINDS: dict[str, Any] = {"R": np.float64, "I": np.int64, "S": np.str_, "L": np.str_}


def _columns(lines: list[str], properties: str) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Parse the columns of atoms: values by name, [n_atoms] or [n_atoms, k], and notes on columns that are not read."""
    rows = [line.split() for line in lines]
    fields, start, columns = properties.split(":"), 0, {}
    layout = list(zip(fields[0::3], fields[1::3], map(int, fields[2::3])))
    width = sum(k for _, _, k in layout)
    short = next((row for row in rows if len(row) < width), None)
    if short is not None:
        raise Unusable("unreadable", f"an atom has {len(short)} columns, but Properties announces {width}")
    more = len(rows[0]) - width if rows else 0
    notes = [f"{more} columns per atom are not read, since Properties does not announce them"] if more > 0 else []
    for name, kind, k in layout:
        part = [row[start] for row in rows] if k == 1 else [row[start : start + k] for row in rows]
        columns[name] = _converted(part, kind)
        start += k
    return columns, notes


def _converted(part: list[Any], kind: str) -> NDArray[Any]:
    if kind == "L":
        texts = np.array(part, dtype=np.str_)
        return np.isin(texts, ("T", "True")) if np.isin(texts, ("T", "True", "F", "False")).all() else texts
    try:
        return np.array(part, dtype=_KINDS[kind])
    except ValueError:
        if kind != "R":
            raise
        texts = np.array(part, dtype=np.str_)  # exponents as Fortran writes them: 1.0D-3
        return np.char.replace(np.char.replace(texts, "D", "e"), "d", "e").astype(np.float64)


def _numbers(symbols: list[str]) -> NDArray[np.int64]:
    from ase.data import atomic_numbers  # start-up: ase

    unknown = next((s for s in symbols if s.capitalize() not in atomic_numbers), None)
    if unknown is not None:
        raise Unusable("unknown element", f"symbol {unknown!r}")
    return np.array([atomic_numbers[s.capitalize()] for s in symbols], dtype=np.int64)
