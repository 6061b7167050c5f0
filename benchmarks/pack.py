"""How fast `.aselmdb` files are packed: the number of docs/benchmarks.md.

    python benchmarks/pack.py [--structures 20000] [--workers 2] [--dialect old]

The file is random (4 to 24 atoms, 14 on average; all labels, magnetic moments as in OMat24), in a temporary folder.
CPU time is given beside wall time: on a machine that is shared only the first can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from machine import machine

from matscale.core.data.sources.pack import pack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dialect", choices=["old", "new"], default="old", help="nested lists, or __ndarray__")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "random.aselmdb"
        write(source, options.structures, options.dialect)
        before, start = cpu_seconds(), time.perf_counter()
        manifest = pack([source], Path(folder) / "packed", workers=options.workers).manifest
        wall, cpu = time.perf_counter() - start, cpu_seconds() - before
    print(machine())
    n = manifest.n_structures
    assert n == options.structures
    print(
        f"{n:,} structures, {manifest.n_atoms / n:.1f} atoms each, {options.dialect} dialect, "
        f"{options.workers} workers: "
        f"{n / wall:,.0f} structures/s by wall time ({wall:.1f} s); {n / cpu:,.0f} per second of one core "
        f"({cpu:.1f} s of CPU time, start of workers included); load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )


def cpu_seconds() -> float:
    """Processor seconds of this process and of those that it started and that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


def write(path: Path, n: int, dialect: str) -> None:
    """An `.aselmdb` file of random structures."""
    rng = np.random.default_rng(0)
    grid = 3.0 * np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)
    with (
        lmdb.open(str(path), subdir=False, map_size=1 << 36, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        for number in range(1, n + 1):
            transaction.put(b"%d" % number, zlib.compress(json.dumps(row(rng, grid, dialect)).encode()))
        transaction.put(b"nextid", zlib.compress(str(n + 1).encode()))


def row(rng: np.random.Generator, grid: np.ndarray, dialect: str) -> dict[str, Any]:
    """One structure as its JSON object."""
    n_atoms = int(rng.integers(4, 25))
    arrays = {
        "numbers": rng.integers(1, 90, n_atoms),
        "positions": grid[:n_atoms] + 0.1 * rng.normal(size=(n_atoms, 3)),
        "cell": 9.0 * np.eye(3),
        "forces": rng.normal(size=(n_atoms, 3)),
        "stress": 0.01 * rng.normal(size=6),
        "magmoms": rng.normal(size=n_atoms),
    }
    plain = {
        name: a.tolist() if dialect == "old" else {"__ndarray__": [list(a.shape), a.dtype.name, a.reshape(-1).tolist()]}
        for name, a in arrays.items()
    }
    rest = {"pbc": [True] * 3, "energy": float(rng.normal()), "calculator": "unknown", "unique_id": "0" * 32}
    return {**plain, **rest, "ctime": 25.0, "mtime": 25.0, "user": "u", "key_value_pairs": {}, "data": {"sid": "a1"}}


if __name__ == "__main__":
    main()
