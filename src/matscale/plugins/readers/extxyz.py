"""Extended XYZ, plain or compressed, read forwards only.

ASE's reader seeks back and forth, which in a compressed file means to decompress from the beginning for every
structure (35 structures/s from .xz here); this one passes over the file once. The comment line is parsed by ASE.
"""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matscale.core.data.formats import Frame
from matscale.core.data.labels import Unusable
from matscale.core.data.lines import Lines
from matscale.core.data.structure import Structure, whole_numbers
from matscale.core.errors import DataError

SUFFIXES = (".extxyz", ".xyz")
_OPEN: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}


def matches(path: Path) -> bool:
    stem = path.name[: -len(path.suffix)] if path.suffix in _OPEN else path.name
    return stem.lower().endswith(SUFFIXES)


class _Stream:
    """A file and the number of the structure that comes next."""

    def __init__(self, path: Path) -> None:
        self.path, self.next = path, 0
        file = _OPEN.get(path.suffix, open)(path, "rt", encoding="utf-8")
        self._file = Lines(path, file, path.suffix in _OPEN)
        self._line = 0

    def frame(self) -> list[str] | None:
        """Comment line and atom lines of the next structure; None at the end of the file."""
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
                raise ValueError(f"it announces {n_atoms} atoms")
            if n_atoms > self._file.limits.atoms:
                raise ValueError(f"it announces {n_atoms:.4g} atoms (--limit atoms=... allows more)")
            lines = self._file.take(n_atoms + 1)  # ends with the file, whatever number was announced
        except (ValueError, EOFError, OSError, lzma.LZMAError) as error:
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
"""The stream that was read last: work is handed out in ascending order, and the next piece goes on from there."""


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
    from ase.io.extxyz import key_val_str_to_dict

    try:
        info = key_val_str_to_dict(lines[0].strip())
        cell = np.asarray(info.pop("Lattice", np.zeros((3, 3))), dtype=np.float64).T
        default_pbc = [True] * 3 if cell.any() else [False] * 3
        pbc = np.asarray(info.pop("pbc", default_pbc), dtype=bool) & np.ones(3, dtype=bool)
        columns = _columns(lines[1:], str(info.pop("Properties", "species:S:1:pos:R:3")))
        numbers = whole_numbers(columns.pop("Z")) if "Z" in columns else _numbers(columns.pop("species").tolist())
        positions = columns.pop("pos")
    except Unusable as fault:
        return fault
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        return Unusable("unreadable", f"{source}: {type(error).__name__}: {error}")
    columns.pop("species", None)
    return Structure(
        atomic_numbers=numbers,
        positions=positions,
        cell=cell,
        pbc=pbc,
        source=source,
        info={**info, **columns},
    )


_KINDS: dict[str, Any] = {"R": np.float64, "I": np.int64, "S": np.str_, "L": np.str_}


def _columns(lines: list[str], properties: str) -> dict[str, NDArray[Any]]:
    """Name -> [n_atoms] or [n_atoms, k] of the per-atom columns."""
    rows = [line.split() for line in lines]
    fields, start, columns = properties.split(":"), 0, {}
    layout = list(zip(fields[0::3], fields[1::3], map(int, fields[2::3])))
    width = sum(k for _, _, k in layout)
    short = next((row for row in rows if len(row) < width), None)
    if short is not None:
        raise Unusable("unreadable", f"an atom has {len(short)} columns, Properties announces {width}")
    for name, kind, k in layout:
        part = [row[start] for row in rows] if k == 1 else [row[start : start + k] for row in rows]
        columns[name] = np.array(part, dtype=_KINDS[kind])
        start += k
    return columns


def _numbers(symbols: list[str]) -> NDArray[np.int64]:
    from ase.data import atomic_numbers

    unknown = next((s for s in symbols if s.capitalize() not in atomic_numbers), None)
    if unknown is not None:
        raise Unusable("unknown element", f"symbol {unknown!r}")
    return np.array([atomic_numbers[s.capitalize()] for s in symbols], dtype=np.int64)
