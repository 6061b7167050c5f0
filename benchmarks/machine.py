"""The processor that a benchmark runs on, in words: a ratio of times without it says little."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_SEEN = ("avx2", "avx512f")
"""Flags of /proc/cpuinfo that decide which of its kernels torch takes."""


def processor(cpuinfo: str | None = None) -> str:
    """Return name, family and model of the processor, and its vector instructions.

    >>> processor("model name : AMD EPYC\\ncpu family : 25\\nmodel : 1\\nflags : fma avx2")
    'AMD EPYC (family 25, model 1; AVX2, no AVX-512)'
    """
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text()
        except OSError:
            return platform.processor() or platform.machine()
    first = cpuinfo.strip().split("\n\n")[0]
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    if "model name" not in found or "flags" not in found:  # not x86
        return platform.processor() or platform.machine()
    avx2, avx512 = (flag in found["flags"].split() for flag in _SEEN)
    vectors = f"{'AVX2' if avx2 else 'no AVX2'}, {'AVX-512' if avx512 else 'no AVX-512'}"
    return f"{found['model name']} (family {found['cpu family']}, model {found['model']}; {vectors})"


def machine() -> str:
    """The processor, and how many of its cores this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor()}, {usable} of {os.cpu_count()} cores"
