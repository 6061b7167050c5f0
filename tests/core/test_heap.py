"""Memory freed by one step is there for the next."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from matscale.core.heap import is_glibc

FAULTS = """
import ctypes, resource
from contextlib import nullcontext
from matscale.core.heap import kept_heap

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def step():
    blocks = [libc.malloc(size) for size in (40 << 20, 10 << 20, 30 << 20)]
    for block, size in zip(blocks, (40, 10, 30)):
        ctypes.memset(block, 1, size << 20)
    for block in blocks:
        libc.free(block)

def faults(context):
    with context:
        step()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            step()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

print(faults(nullcontext()), faults(kept_heap()), resident())
"""
"""Blocks above the 32 MB up to which glibc may keep them by itself, and below."""


def run(**environment: str) -> tuple[int, int, int]:
    tuning = ("GLIBC_TUNABLES", "MALLOC_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(tuning)}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env={**inherited, **environment}, capture_output=True, text=True, check=True
    )
    without, within, resident = map(int, done.stdout.split())
    return without, within, resident


@pytest.mark.skipif(not is_glibc(), reason="only glibc is told what to keep")
def test_pages_are_faulted_in_once_and_given_back_at_the_end() -> None:
    without, within, resident = run()
    assert within < 0.1 * without
    assert resident < 80  # MB: less than what a step takes, above the interpreter's own


@pytest.mark.skipif(not is_glibc(), reason="only glibc is told what to keep")
def test_who_tunes_malloc_by_the_environment_is_left_to_it() -> None:
    without, within, _ = run(MALLOC_TRIM_THRESHOLD_="131072")
    assert within > 0.5 * without
