"""Keep freed memory in the process during training (Linux with glibc).

By default, glibc returns freed memory to the system, and requests each large block anew. Then all activations of a
training step on a CPU are in new memory pages, which the system must find and clear in every step. For figures, see
"Freed memory" in docs/benchmarks.md.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Constants of the C function mallopt, from malloc.h."""
_LARGEST = 1 << 30
"""Largest block that is taken from the heap of the process [bytes]. Old versions of glibc allow only 32 MB."""
_USUAL = 1 << 25
"""Largest value of glibc's own threshold, which grows with the size of freed blocks."""
OF_USER = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


@contextmanager
def kept_heap() -> Iterator[None]:
    """Context in which freed memory stays in the process. At the end, it is returned to the system.

    Without glibc, or if environment variables tune glibc, the context has no effect.
    """
    if not is_glibc() or any(name in os.environ for name in OF_USER):
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_TRIM_THRESHOLD, -1)  # never
    if not libc.mallopt(_MMAP_THRESHOLD, _LARGEST):
        libc.mallopt(_MMAP_THRESHOLD, _USUAL)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _USUAL)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _USUAL)
        libc.malloc_trim(0)


def is_glibc() -> bool:
    """Whether the C library of this process is glibc."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError):  # not available on this system
        return False
