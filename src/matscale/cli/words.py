"""Quantities as people write them."""

from __future__ import annotations


def size_of(n_bytes: float) -> str:
    """3 GB, 21 MB, 4 kB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes / 1e3:.3g} kB"


def duration(seconds: float) -> str:
    """2 h 5 min, 3 min 20 s, 12.5 s.

    >>> duration(42), duration(200), duration(4000)
    ('42 s', '3 min 20 s', '1 h 6 min')
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    if minutes < 60:
        return f"{int(minutes)} min {int(seconds % 60)} s"
    return f"{int(minutes // 60):,} h {int(minutes % 60)} min"
