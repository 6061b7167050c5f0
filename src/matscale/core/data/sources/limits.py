"""Limits on input files, so that no file fills the memory or the disk, or takes for ever to read.

Each limit applies to a structure, a file or an archive. Files of any size can be read, since readers hold only a few
structures at a time. Change a limit by `--limit NAME=VALUE` where a command reads files, or in Python:

    with using(Limits.parse(["atoms=5M"])):
        pack(["large.extxyz"], "dataset")
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace

from matscale.core.arguments import assigned
from matscale.core.errors import ConfigError
from matscale.core.scoped import Scoped

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_UNITS |= {f"{letter}I": 1 << (10 * k) for k, letter in enumerate("KMGTP", start=1)}
FREE = 256 << 20
"""Bytes to which every compressed file may unpack; the limit `expansion` applies beyond these."""


@dataclass(frozen=True)
class Limits:
    """Limits on the input that a reader accepts; each is a positive whole number.

    >>> Limits.parse(["memory=8GiB", "atoms=5k"]).changed()
    {'atoms': 5000, 'memory': 8589934592}
    """

    structure: int = 32 << 20
    """Largest number of bytes of one structure as text, JSON or database row: enough for some 300,000 atoms."""
    atoms: int = 1_000_000
    """Largest number of atoms of one structure."""
    structures: int = 1_000_000_000
    """Largest number of structures in one file."""
    memory: int = 4 << 30
    """Bytes of memory that a process may use, besides the file itself, to read through ASE or LMDB."""
    seconds: int = 600
    """Largest processor time for reading one structure through ASE or LMDB [s]."""
    expansion: int = 200
    """Largest ratio of unpacked to compressed size, apart from the first 256 MiB."""
    unpacked: int = 2 * 10**12
    """Largest number of bytes to which an archive may unpack; the free space on the disk is a limit, too."""
    members: int = 1_000_000
    """Largest number of files and folders in an archive."""

    @classmethod
    def parse(cls, assignments: Iterable[str]) -> Limits:
        """Parse limits from texts such as "memory=8GiB" or "atoms=5M".

        Raises ConfigError for an unknown name, and suggests the nearest one.
        """
        known = [field.name for field in fields(cls)]
        given: dict[str, int] = {}
        for assignment in assignments:
            name, text = assigned(assignment, "--limit", "NAME=VALUE", "memory=8GiB", "limit", known)
            given[name] = _number(assignment, text)
        return replace(cls(), **given)

    def changed(self) -> dict[str, int]:
        """Limits that differ from the defaults, by name."""
        default = asdict(Limits())
        return {name: value for name, value in asdict(self).items() if value != default[name]}


def _number(assignment: str, text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,6})?(?:[eE][0-9]{1,2})?)\s*([KMGTP]?I?)B?", text.upper())
    value = float(match[1]) * _UNITS[match[2]] if match and match[2] in _UNITS else 0.0
    if not 1 <= value < 2**63:
        raise ConfigError(f"--limit {assignment}: expected a positive number such as 500, 5M, 8GB or 8GiB.")
    return int(value)


_current = Scoped("limits", Limits())


def current() -> Limits:
    """Limits that are in force in this thread."""
    return _current.get()


def using(limits: Limits) -> AbstractContextManager[None]:
    """Context in which `limits` apply to this thread, and to guarded processes that it uses."""
    return _current.set(limits)


def shown(n_bytes: float) -> str:
    """Format a number of bytes for a message, such as `32 MiB`.

    >>> shown(512), shown(32 * 2**20)
    ('512 bytes', '32 MiB')
    """
    for factor, unit in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.4g} {unit}"
    return f"{n_bytes:.0f} bytes"
