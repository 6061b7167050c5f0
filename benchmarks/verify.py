"""Cost of checking a dataset: relative to the first epoch of the cheapest architecture, and afterwards.

    python benchmarks/verify.py [--structures 20000] [--params 3k]

Prints the time of the first opening (every shard is hashed and looked at), of later ones (stamps only), that of an
epoch of fcn on the same structures with one thread, and what follows for 118 million structures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from data import random_crystal
from machine import machine

LARGE = 118_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=20_000)
    parser.add_argument("--params", default="3k", help="size of fcn")
    parser.add_argument("--batch", type=int, default=256, help="structures of a step")
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary dataset goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run(options, Path(folder))


def run(options: argparse.Namespace, folder: Path) -> None:
    from matscale.core.data.store import verified
    from matscale.core.data.store.packed import PackedDataset, ShardWriter

    path, rng = folder / "dataset", np.random.default_rng(0)
    writer = ShardWriter(path)
    for _ in range(options.structures):
        writer.append(random_crystal(rng))
    writer.finish()
    size = sum(file.stat().st_size for file in path.glob("shard-*"))
    n = options.structures
    time.sleep(verified.SETTLED_NS / 1e9)

    def opened() -> float:
        start = time.perf_counter()
        PackedDataset.open(path).check()
        return time.perf_counter() - start

    opened()  # brings the file into the page cache
    firsts = []
    for _ in range(5):
        shutil.rmtree(path / verified.FOLDER)
        firsts.append(opened())
    first, later = float(np.median(firsts)), float(np.median([opened() for _ in range(20)]))
    epoch = seconds_of_an_epoch(path, folder / "run", options)
    print(machine())
    print(f"{n:,} structures, {size / 1e6:.1f} MB in one shard, hashed by one thread")
    print(f"first opening {1e3 * first:.1f} ms ({size / first / 1e9:.2f} GB/s); later ones {1e3 * later:.2f} ms")
    print(f"an epoch of fcn at {options.params} parameters, {options.batch} structures a step: {epoch:.1f} s")
    print(f"checking costs {first / epoch:.2%} of the first epoch and {later / epoch:.4%} of the others")
    per_structure = seconds_per_structure(path, folder)
    scale = LARGE / n
    shards = int(np.ceil(size * scale / (2 << 30)))
    print(
        f"{LARGE / 1e6:.0f} million such structures: {size * scale / 1e9:.0f} GB in {shards} shards, checked in "
        f"{per_structure * LARGE:.0f} s of one core ({size / n / per_structure / 1e9:.2f} GB/s), "
        f"{per_structure * n / epoch:.2%} of an epoch of {epoch * scale / 3600:.1f} h; later openings "
        f"{1e3 * later * shards:.0f} ms"
    )


def seconds_per_structure(path: Path, folder: Path, copies: int = 40) -> float:
    """Time of checking one more structure of a large shard: what a small one takes is mostly the stamp."""
    from matscale.core.data.store.shard import check_shard, map_shard, write_shard
    from matscale.core.files import sha256_of

    small, large = path / "shard-00000.safetensors", folder / "large.safetensors"
    write_shard(large, [map_shard(small)] * copies)

    def seconds(file: Path) -> float:
        start = time.perf_counter()
        sha256_of(file)
        check_shard(map_shard(file), 1)
        return time.perf_counter() - start

    return min(seconds(large) for _ in range(3)) / (copies * len(map_shard(small)["group"]))


def seconds_of_an_epoch(path: Path, run: Path, options: argparse.Namespace) -> float:
    """Wall time of the training steps of one epoch, as the run records them: start and validation are left out."""
    command = [
        sys.executable, "-m", "matscale", "train", "--arch", "fcn", "--params", options.params, "--data", str(path),
        "--epochs", "1", "-o", str(run), "--set", f"batch.structures={options.batch}",
        "--set", "data.check_stress_unit=false",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [row["atoms_per_s"] for row in rows if row.get("atoms_per_s")]
    n_atoms = json.loads((path / "manifest.json").read_text())["n_atoms"]
    return n_atoms / max(rates)  # the fastest: checking looks the most expensive beside it


if __name__ == "__main__":
    main()
