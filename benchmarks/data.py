"""How fast batches are read, and how much memory a large dataset takes: the numbers of docs/benchmarks.md.

    python benchmarks/data.py read  [--structures 20000] [--data DATASET]
    python benchmarks/data.py reach [--structures 10000000]

Datasets that the benchmarks make are random, in a temporary folder (`--folder` says where), and deleted afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import machine

from matscale.core.data.structure import Structure

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["read", "reach", "reach-child"], metavar="{read,reach}")
    parser.add_argument("--structures", type=int, help="size of the random dataset")
    parser.add_argument("--data", type=Path, help="read: a packed dataset instead of a random one")
    parser.add_argument("--folder", type=Path, help="where temporary datasets go")
    parser.add_argument("--rounds", type=int, default=5, help="read: epochs, of which the best and the median count")
    options = parser.parse_args()
    if options.what == "reach-child":
        print(json.dumps(measure_reach(options.data)))
        return
    print(machine())
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.what == "read":
            read(options, Path(folder))
        else:
            reach(options.structures or 10_000_000, Path(folder))


# Reading shuffled batches ---------------------------------------------------------------------------------------------


def random_crystal(rng: np.random.Generator) -> Structure:
    """2 to 26 atoms on a jittered lattice, 16 Å³ each, as in dense inorganic crystals; 14 atoms on average."""
    n = int(rng.integers(2, 27))
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)[rng.permutation(27)[:n]]
    cell = np.eye(3) * (16.0 * n) ** (1 / 3) + rng.uniform(-0.1, 0.1, (3, 3))
    return Structure(
        atomic_numbers=rng.integers(1, 90, n),
        positions=((grid + rng.uniform(-0.2, 0.2, (n, 3))) / 3) @ cell,
        cell=cell,
        pbc=np.ones(3, bool),
        energy=float(rng.normal()),
        forces=rng.normal(size=(n, 3)),
        stress=rng.normal(size=(3, 3)),
        trajectory=str(rng.integers(1000)),
    )


def read(options: argparse.Namespace, folder: Path) -> None:
    import torch

    from matscale.core.data.graph import Graph
    from matscale.core.data.loader import Augmentation, BatchBudget, Loader
    from matscale.core.data.store.edge_cache_build import build_cache
    from matscale.core.data.store.packed import PackedDataset, ShardWriter

    torch.set_num_threads(1)
    path = options.data
    if path is None:
        path, rng = folder / "dataset", np.random.default_rng(0)
        writer = ShardWriter(path)
        for _ in range(options.structures or 20_000):
            writer.append(random_crystal(rng))
        writer.finish()
    dataset = PackedDataset.open(path)
    print(
        f"{len(dataset):,} structures, {dataset.n_atoms.mean():.1f} atoms each; batches of {BATCH}, shuffled, 1 process"
    )
    copied = copy_bandwidth()
    print(f"a copy in memory moves {copied / 1e9:.1f} GB/s\n")
    print("| graph | edges a structure | structures/s, best | median | a CPU second | batch, kB | of a copy's speed |")
    print("|---|---|---|---|---|---|---|")
    turned = Augmentation(rotate=True)
    nearest = Graph.nearest(12.0, 20, strict=False)
    cases = [(Graph.none(), None), (Graph.radius(6.0), None), (nearest, None), (nearest, turned)]
    for graph, augmentation in cases:
        if graph.has_edges:
            seconds = timed(lambda graph=graph: build_cache(dataset, graph))
            if seconds > 1:
                print(f"edges of {graph.key}: {len(dataset) / seconds:,.0f} structures/s, one process", file=sys.stderr)
        loader = Loader(dataset, range(len(dataset)), graph, BatchBudget(structures=BATCH), augmentation=augmentation)
        sizes = [n_bytes(batch) for batch in loader.epoch(0)]  # brings everything into the page cache, too
        rates, cpu_rates = [], []
        for epoch in range(options.rounds):
            cpu = time.process_time()
            rates.append(len(dataset) / timed(lambda e=epoch, loader=loader: exhaust(loader.epoch(e))))
            cpu_rates.append(len(dataset) / (time.process_time() - cpu))
        best = max(rates)
        n_edges = build_cache(dataset, graph).n_edges.mean() if graph.has_edges else 0
        print(
            f"| {graph.key}{' + rotation' if augmentation else ''} | {n_edges:.0f} | {best:,.0f} | "
            f"{np.median(rates):,.0f} | {max(cpu_rates):,.0f} | {np.mean(sizes) / 1e3:.0f} | "
            f"{np.mean(sizes) / (BATCH / best) / copied:.0%} |"
        )
    read_with_ase(dataset, folder, min(len(dataset), 4000))


def read_with_ase(dataset, folder: Path, n: int) -> None:
    """The usual way: one row of a database a structure, decoded to ase.Atoms, made into tensors, put together."""
    import ase.db
    import torch
    from torch_geometric.data import Batch, Data

    database = ase.db.connect(folder / "structures.aselmdb", type="aselmdb")
    for index in range(n):
        database.write(dataset[index].to_ase())
    database.close()
    database = ase.db.connect(folder / "structures.aselmdb", type="aselmdb", readonly=True)

    def one(index: int) -> Data:
        atoms = database.get(index + 1).toatoms()
        return Data(
            pos=torch.tensor(atoms.get_positions(), dtype=torch.float32),
            z=torch.tensor(atoms.get_atomic_numbers()),
            cell=torch.tensor(atoms.cell.array, dtype=torch.float32)[None],
            energy=atoms.get_potential_energy(),
            forces=torch.tensor(atoms.get_forces(), dtype=torch.float32),
            stress=torch.tensor(atoms.get_stress(voigt=False), dtype=torch.float32)[None],
        )

    order = np.random.default_rng(0).permutation(n)[: n // BATCH * BATCH].reshape(-1, BATCH)
    rates = [
        order.size / timed(lambda: [Batch.from_data_list([one(int(i)) for i in batch]) for batch in order])
        for _ in range(3)
    ]
    print(f"\nThe same without edges by .aselmdb, ase.Atoms and PyG's Batch: {max(rates):,.0f} structures/s")


def exhaust(batches) -> None:
    for _ in batches:
        pass


def n_bytes(batch) -> int:
    return sum(x.nbytes for x in vars(batch).values() if x is not None)


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def copy_bandwidth() -> float:
    """Bytes per second that one thread writes when it copies fresh from memory: the limit of any reader."""
    source = np.ones(64 << 20, np.uint8)
    target = np.empty_like(source)
    np.copyto(target, source)
    return source.nbytes / min(timed(lambda: np.copyto(target, source)) for _ in range(10))


# Reach: ten million structures ----------------------------------------------------------------------------------------


def reach(n: int, folder: Path) -> None:
    start = time.perf_counter()
    path = folder / "large"
    write_large(path, n)
    size = sum(file.stat().st_size for file in path.iterdir())
    print(f"{n:,} structures, {size / 1e9:.2f} GB, written in {time.perf_counter() - start:.0f} s")
    command = [sys.executable, __file__, "reach-child", "--data", str(path)]  # a process that did nothing else before
    m = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(
        f"opened in {1e3 * m['open_s']:.1f} ms; resident memory grew by {m['open_rss']:.1f} MB (to {m['rss']:.0f} MB)"
    )
    for budget, e in m["epochs"].items():
        print(
            f"shuffled epoch, {budget} a batch: {e['batches']:,} batches, first after {e['first_s']:.2f} s, "
            f"{n / e['s']:,.0f} structures/s; memory of its own (anonymous) grew by at most {e['anonymous']:.0f} MB; "
            f"pages of the mapped files, which the system may take back: at most {e['mapped']:.0f} MB"
        )


def write_large(path: Path, n: int, block: int = 50_000) -> None:
    """n structures of 1 to 6 atoms: one random block, again and again."""
    from matscale.core.data.store.manifest import Manifest, ShardRecord, dataset_hash
    from matscale.core.data.store.shard import arrays_of, write_shard

    rng = np.random.default_rng(0)
    path.mkdir(parents=True)

    def small() -> Structure:
        k = int(rng.integers(1, 7))
        values = rng.normal(size=(k, 3))
        return Structure(
            np.full(k, 29), values, 4 * np.eye(3), np.ones(3, bool), 0.0, values, np.eye(3), trajectory="t"
        )

    structures = [small() for _ in range(min(block, n))]
    arrays, shards = arrays_of(structures, [0] * len(structures)), []
    blocks = -(-n // block)
    for first in range(0, blocks, 100):
        pieces = [arrays] * min(100, blocks - first)
        file = f"shard-{len(shards):05d}.safetensors"
        digest = write_shard(path / file, pieces)
        counts = len(structures) * len(pieces), len(arrays["positions"]) * len(pieces)
        shards.append(ShardRecord(file=file, n_structures=counts[0], n_atoms=counts[1], sha256=digest))
    total, n_atoms = sum(s.n_structures for s in shards), sum(s.n_atoms for s in shards)
    labels = dict.fromkeys(("energy", "forces", "stress"), total)
    Manifest(
        n_structures=total, n_atoms=n_atoms, elements={"Cu": n_atoms}, labels=labels, shards=shards,
        hash=dataset_hash(shards),
    ).write(path)  # fmt: skip


def measure_reach(path: Path) -> dict:
    """Runs in a process of its own; MB, seconds."""
    import torch

    from matscale.core.data.graph import Graph
    from matscale.core.data.loader import BatchBudget, Loader
    from matscale.core.data.store.packed import PackedDataset

    torch.set_num_threads(1)
    before = memory()
    start = time.perf_counter()
    dataset = PackedDataset.open(path)
    dataset.structure(len(dataset) // 2)
    opened = time.perf_counter() - start
    after = memory()
    epochs = {}
    for name, budget in {
        f"{BATCH} structures": BatchBudget(structures=BATCH),
        "112 atoms": BatchBudget(atoms=112),
    }.items():
        start, base = time.perf_counter(), memory()
        loader = Loader(dataset, range(len(dataset)), Graph.none(), budget)
        first, peak, k = 0.0, base, 0
        for k, _ in enumerate(loader.epoch(0), 1):
            first = first or time.perf_counter() - start
            if k % 5000 == 0:
                peak = {kind: max(value, peak[kind]) for kind, value in memory().items()}
        mapped = peak["mapped"] - before["mapped"]
        epochs[name] = {
            "batches": k, "s": time.perf_counter() - start, "first_s": first,
            "anonymous": peak["anonymous"] - base["anonymous"], "mapped": mapped,
        }  # fmt: skip
    return {"open_s": opened, "open_rss": after["rss"] - before["rss"], "rss": after["rss"], "epochs": epochs}


def memory() -> dict[str, float]:
    """Resident memory of this process, MB: all of it, the part that belongs to no file, and pages of mapped files."""
    lines = Path(f"/proc/{os.getpid()}/smaps_rollup").read_text().splitlines()
    kilobytes = {line.split(":")[0]: float(line.split()[1]) for line in lines[1:]}
    rss, anonymous = kilobytes["Rss"] / 1e3, kilobytes["Anonymous"] / 1e3
    return {"rss": rss, "anonymous": anonymous, "mapped": rss - anonymous}


if __name__ == "__main__":
    main()
