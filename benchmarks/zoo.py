"""The models of examples/zoo.toml: parameters, FLOPs per atom, and atoms per second of a training step on a CPU.

    python benchmarks/zoo.py STRUCTURES [--study examples/zoo.toml] [--passes 3]
    python benchmarks/zoo.py STRUCTURES --arch nequip

A row for each architecture of the study: its rung of the ladder with what the study sets on top. Or the rung of one
architecture, 100,000 parameters, for one that has to be alone in its environment. A step is the trainer's: forward,
loss on energy, forces and stress, backward, clipped AdamW, on the trainer's heap; batches of 8, edges made before the
clock starts, one thread, float32, denormal numbers flushed to zero, which the trainer leaves to torch. Rates are the
atoms of all batches over the median seconds of a pass.
"""

from __future__ import annotations

import argparse
import statistics
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from machine import machine
from torch import nn

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.estimate.describe import describe
from matscale.core.heap import kept_heap
from matscale.core.hosting.host import host
from matscale.core.model.architecture import Architecture, ArchitectureConfig, DatasetInfo
from matscale.core.model.potential import Potential
from matscale.core.runs.config import OptimizerConfig
from matscale.core.runs.files import called
from matscale.core.train.optimizer.optim import adamw
from matscale.core.units import parse_count

ZOO = Path(__file__).parents[1] / "examples" / "zoo.toml"


def models(study: Path) -> Iterator[tuple[str, Architecture, ArchitectureConfig]]:
    """Models of a study whose architectures each have one size of the ladder, without those that are not installed."""
    read = tomllib.loads(study.read_text(encoding="utf-8"))
    known = {architecture.name: architecture for architecture in host().architectures()}
    for row in read["architectures"]:
        if architecture := known.get(row["name"]):
            start = architecture.ladder(int(parse_count(row.get("params", read["params"]))))
            own: dict[str, Any] = row.get("set", {}).get("architecture", {}).get("config", {})
            config = architecture.config.parse({**start.plain(), **own})
            yield called(row["name"], row.get("variant")), architecture, config


def batches(path: Path, architecture: Architecture, config: ArchitectureConfig) -> list[AtomicBatch]:
    import ase.io

    structures = [Structure.from_ase(atoms) for atoms in ase.io.read(path, index=":")]
    parts = [structures[start : start + 8] for start in range(0, len(structures), 8)]
    return [collate(part, architecture.graph(config), torch.float64).to(dtype=torch.float32) for part in parts]


def atoms_per_s(architecture: Architecture, config: ArchitectureConfig, path: Path, passes: int) -> float:
    import time

    data = batches(path, architecture, config)
    potential = Potential.of(architecture, config, DatasetInfo.any(), seed=0).train()
    optimizer = adamw(potential, OptimizerConfig())

    def step(batch: AtomicBatch) -> None:
        optimizer.zero_grad()
        out = potential(batch)
        assert out.forces is not None
        assert out.stress is not None
        (out.energy.abs().mean() + out.forces.norm(dim=1).mean() + out.stress.abs().mean()).backward()
        nn.utils.clip_grad_norm_(potential.parameters(), 10.0)
        optimizer.step()

    seconds = []
    for _ in range(passes + 1):
        start = time.perf_counter()
        for batch in data:
            step(batch)
        seconds.append(time.perf_counter() - start)
    return sum(batch.n_atoms for batch in data) / statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("--study", type=Path, default=ZOO)
    parser.add_argument("--arch", help="this one instead of the study")
    parser.add_argument("--passes", type=int, default=3, help="timed passes over all batches, after one that is not")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print(f"{machine()}; torch {torch.__version__}, 1 thread, kept heap, fused AdamW, denormals flushed", flush=True)
    alone = host().architecture(arguments.arch) if arguments.arch else None
    rows = [(alone.name, alone, alone.ladder(100_000))] if alone else models(arguments.study)
    for name, architecture, config in rows:
        about = describe(architecture, config, host())
        with kept_heap():
            rate = atoms_per_s(architecture, config, arguments.structures, arguments.passes)
        count, flops = about.parameters["total"], about.flops_per_atom
        print(f"{name}: {count:,} parameters, {flops:.3g} FLOPs per atom, {rate:,.0f} atoms/s", flush=True)


if __name__ == "__main__":
    main()
