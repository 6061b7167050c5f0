"""Model of training on many devices and on all of OMat24, from measured times and stated hardware: docs/scaling-out.md.

    python benchmarks/scaling_out.py model --step 0.5 --parameters 30M --bandwidth 25 --latency 20
    python benchmarks/scaling_out.py balance --batch 16
    python benchmarks/scaling_out.py omat24 [--structures 118M] [--jobs 64]

`model`: efficiency of N devices that make the same work each as the one whose step was measured. A ring sums G bytes of
gradients in 2 (N - 1) / N G / B seconds, for a bandwidth of B between neighbours in the ring, and every bucket of 25 MB
waits for 2 log2 N messages. All buckets but the last can be summed while the backward pass runs. The slowest device
decides when a step ends (`balance`). With --sharding, the weights are gathered before each step, which hides nothing.

`balance`: work of the slowest device over the mean, for the division by edges that training does, with sizes of
structures like those of OMat24 (log-normal, 19 atoms on average).

`omat24`: memory of the order of an epoch, its randomness, shards and pages that a step reads, and the time of packing.
The order is that of training; no file is written.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
import time
from collections.abc import Sequence

import numpy as np
from machine import machine
from numpy.typing import NDArray

from matscale.core.counter_rng import Permutation
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.loader import BatchBudget, Loader
from matscale.core.data.partition import balanced
from matscale.core.data.store.writer import SHARD_BYTES
from matscale.core.units import parse_count

BUCKET = 25 << 20
"""Bytes of gradients that DistributedDataParallel sums at a time."""
DEVICES = (1, 2, 8, 16, 32, 64, 128, 256, 512)
ATOMS, SPREAD = 19.0, 0.7
"""Mean number of atoms of a structure, and standard deviation of its logarithm."""
PER_ATOM, PER_STRUCTURE = 2 * 24 + 1, 200
"""Bytes of an atom (position, force, element) and of a structure (cell, labels, pointers) in a shard."""
PACKED_PER_CPU_SECOND = 3874
"""Structures of 14 atoms that a CPU second packs from `.aselmdb` (docs/benchmarks.md)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("model")
    one.add_argument("--step", type=float, required=True, help="seconds of a step on one device")
    one.add_argument("--backward", type=float, default=0.6, help="share of the step in which gradients appear")
    one.add_argument("--parameters", type=parse_count, required=True)
    one.add_argument("--bandwidth", type=float, required=True, help="GB/s of a device to the next in the ring")
    one.add_argument("--latency", type=float, default=20.0, help="microseconds of a message")
    one.add_argument("--imbalance", type=float, default=1.03, help="slowest device over the mean: `balance`")
    one.add_argument("--sharding", action="store_true", help="compute.sharding=state")
    two = commands.add_parser("balance")
    two.add_argument("--batch", type=int, default=16, help="structures for each device in a step")
    three = commands.add_parser("omat24")
    three.add_argument("--structures", type=parse_count, default=parse_count("118M"))
    three.add_argument("--batch", type=int, default=1024, help="structures in a step, over all devices")
    three.add_argument("--jobs", type=int, default=64)
    asked = parser.parse_args()
    print(machine())
    {"model": model, "balance": balance, "omat24": omat24}[asked.command](asked)


# Devices --------------------------------------------------------------------------------------------------------------


def step_seconds(
    n: int, step: float, backward: float, n_bytes: float, bandwidth: float, latency: float, imbalance: float,
    sharding: bool,
) -> float:  # fmt: skip
    """Seconds of a step on `n` devices, by the assumptions at the top; `bandwidth` in bytes/s, `latency` in s."""
    if n == 1:
        return step
    buckets = max(1, math.ceil(n_bytes / BUCKET))
    passed = (n - 1) / n * n_bytes / bandwidth  # of one half of the sum: reduce-scatter, or all-gather
    waits = math.log2(n) * latency
    work = step * imbalance
    if sharding:
        return work + 2 * (passed + waits)
    summed = 2 * (passed + buckets * waits)
    return work + max(summed - backward * step, summed / buckets)


def model(asked: argparse.Namespace) -> None:
    n_bytes = 4 * float(asked.parameters)
    print(f"{asked.step:g} s a step, {n_bytes / 1e6:g} MB of gradients, {asked.bandwidth:g} GB/s, {asked.latency:g} µs")
    print(f"{'devices':>8}{'s a step':>10}{'efficiency':>12}")
    for n in DEVICES:
        seconds = step_seconds(
            n, asked.step, asked.backward, n_bytes, 1e9 * asked.bandwidth, 1e-6 * asked.latency, asked.imbalance,
            asked.sharding,
        )  # fmt: skip
        print(f"{n:>8}{seconds:>10.3f}{asked.step / seconds:>12.1%}")


def sizes(n: int, seed: int = 0) -> NDArray[np.int64]:
    """Numbers of atoms of `n` structures: log-normal, at least 1."""
    drawn = np.random.default_rng(seed).lognormal(math.log(ATOMS) - SPREAD**2 / 2, SPREAD, n)
    return np.maximum(1, np.round(drawn)).astype(np.int64)


def balance(asked: argparse.Namespace) -> None:
    print(f"{'devices':>8}{'slowest / mean':>16}{'in the order of the data':>26}")
    for n in DEVICES[1:]:
        worst, plain = [], []
        for seed in range(5):
            work = sizes(n * asked.batch, seed)
            sums = [work[part].sum() for part in balanced(work, n, asked.batch)]
            worst.append(max(sums) / np.mean(sums))
            plain.append(work.reshape(n, -1).sum(1).max() / np.mean(sums))
        print(f"{n:>8}{np.mean(worst):>16.3f}{np.mean(plain):>26.3f}")


# Data -----------------------------------------------------------------------------------------------------------------


class Sizes:
    """A dataset of which only the numbers of atoms are known."""

    def __init__(self, n: int) -> None:
        self.n_atoms = np.resize(sizes(min(n, 1 << 20)).astype(np.int32), n)

    def __len__(self) -> int:
        return len(self.n_atoms)

    def batch(self, indices: NDArray[np.int64], *_: object) -> AtomicBatch:
        raise NotImplementedError("only the order is simulated")


def peak() -> int:
    kilo = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo


def omat24(asked: argparse.Namespace) -> None:
    n = int(asked.structures)
    dataset = Sizes(n)
    n_bytes = int(dataset.n_atoms.sum(dtype=np.int64)) * PER_ATOM + n * PER_STRUCTURE
    n_shards = max(1, round(n_bytes / SHARD_BYTES))
    print(f"{n:,} structures, {n_bytes / 1e9:.0f} GB in {n_shards} shards")
    for name, budget in (
        ("structures", BatchBudget(structures=asked.batch)),
        ("atoms", BatchBudget(atoms=round(asked.batch * ATOMS))),
    ):
        before, began, cpu = peak(), time.perf_counter(), time.process_time()
        loader = Loader(dataset, range(n), Graph.none(), budget, seed=1)
        n_batches = loader.n_batches(0)
        rows = loader.members(0, n_batches // 2)
        spent = f"{time.perf_counter() - began:.1f} s ({time.process_time() - cpu:.1f} s of the processor)"
        grown = (peak() - before) / 1e6
        print(f"batches by {name}: {n_batches:,}; one in the middle of an epoch after {spent}, +{grown:.0f} MB")
        print(f"  its shards: {reads(rows, n, n_shards)}")
    print(f"order: {quality(n)}")
    hours = n * ATOMS / 14 / PACKED_PER_CPU_SECOND / asked.jobs / 3600
    print(f"packing by {asked.jobs} jobs of one core: {hours:.2f} h, by the {PACKED_PER_CPU_SECOND:,} structures a CPU")
    joining = n_bytes / 4e8 / 60
    print(f"second of benchmarks/pack.py; then one job joins {n_bytes / 1e9:.0f} GB: {joining:.0f} min at 0.4 GB/s")


def reads(rows: NDArray[np.int64], n: int, n_shards: int) -> str:
    touched = len(np.unique(rows * n_shards // n))
    expected = n_shards * (1 - (1 - 1 / n_shards) ** len(rows))
    return f"{touched} of {n_shards} (a random draw: {expected:.1f})"


def quality(n: int, window: int = 1 << 17, windows: Sequence[float] = (0.0, 0.5)) -> str:
    """Correlation of place and row, and of neighbours, in two windows of the order; 1/sqrt(window) is noise."""
    order = Permutation(n, 1, 1, 0)
    found = []
    for at in windows:
        places = np.arange(int(at * n), min(n, int(at * n) + window))
        rows = order(places).astype(np.float64)
        found += [np.corrcoef(places, rows)[0, 1], np.corrcoef(rows[:-1], rows[1:])[0, 1]]
    worst = max(map(abs, found))
    return f"largest correlation of places, rows and neighbours {worst:.4f}; noise of a random order {window**-0.5:.4f}"


if __name__ == "__main__":
    main()
