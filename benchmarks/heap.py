"""Training steps on a CPU with freed memory given back to the system, as glibc does, and kept by the process.

    python benchmarks/heap.py STRUCTURES [--arch schnet gemnet] [--steps 15]

Each in a process of its own that trains one model of the ladder on the first 16 structures: forward, loss, backward,
AdamW (fused), one thread. Prints the median of a step, the page faults of one and what of the time the system took
(`core/heap.py`).
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from machine import machine

from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.heap import kept_heap
from matscale.core.hosting.host import host
from matscale.core.model.architecture import DatasetInfo
from matscale.core.model.outputs import model_outputs
from matscale.core.runs.config import OptimizerConfig
from matscale.core.train.optimizer.optim import adamw

NAMES = ("fcn", "transformer", "schnet", "eqv2", "gemnet", "escaip")


def measure(name: str, arguments: argparse.Namespace) -> str:
    import ase.io

    architecture = host().architecture(name)
    config = architecture.ladder(arguments.params)
    model = architecture.model(config, DatasetInfo.any(), seed=0)
    optimizer = adamw(model, OptimizerConfig())
    structures = [Structure.from_ase(atoms) for atoms in ase.io.read(arguments.structures, index=":16")]
    data = collate(structures, architecture.graph(config), torch.float64).to(dtype=torch.float32)

    def step() -> float:
        began = time.perf_counter()
        optimizer.zero_grad()
        out = model_outputs(model, data, derive=architecture.derives_forces(config), create_graph=True)
        assert out.forces is not None
        (out.energy.abs().mean() + out.forces.abs().mean()).backward()
        optimizer.step()
        return time.perf_counter() - began

    for _ in range(3):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF)
    seconds = [step() for _ in range(arguments.steps)]
    after = resource.getrusage(resource.RUSAGE_SELF)
    faults = (after.ru_minflt - before.ru_minflt) / len(seconds)
    system = (after.ru_stime - before.ru_stime) / sum(seconds)
    peak = after.ru_maxrss / 1024
    return f"{1e3 * statistics.median(seconds):.1f} ms, {faults:,.0f} faults, system {system:.0%}, peak {peak:.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("--arch", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--params", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--one", choices=("default", "kept"), help="measure in this process, one architecture")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        with kept_heap() if arguments.one == "kept" else nullcontext():
            print(measure(arguments.arch[0], arguments))
        return
    print(f"{machine()}; torch {torch.__version__}, 1 thread, fused AdamW", flush=True)
    rest = [str(arguments.structures), "--params", str(arguments.params), "--steps", str(arguments.steps)]
    for name in arguments.arch:
        for heap in ("default", "kept"):
            command = [sys.executable, __file__, *rest, "--arch", name, "--one", heap]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            print(f"{name}, {heap}: {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
