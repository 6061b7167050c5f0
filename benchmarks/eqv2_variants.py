"""Compiling and checkpointing activations in a training step of EquiformerV2: effect on time and memory.

    python benchmarks/eqv2_variants.py [--compile]

One batch, one model, float32, one thread; the variants take turns, and of each the median and the fastest step are
shown, in seconds of the processor, which other programs do not lengthen much. Memory: by how much the process grows in
two steps, each variant in a process of its own. Compiling takes minutes. docs/eqv2.md has the table.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from eqv2_linear import alloy, potential, step
from machine import machine

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.model.activation_checkpointing import checkpoint_activations
from matscale.core.model.potential import Potential
from matscale.plugins.eqv2.fast import forced

Form = Callable[[], AbstractContextManager[object]]
STRUCTURES, ATOMS, ROUNDS = 6, 8, 7


def variants(n_layers: int, compiling: bool) -> tuple[dict[str, tuple[Potential, Form]], AtomicBatch]:
    """Name -> (model, the form that it computes in), and the batch."""
    plain = potential(n_layers=n_layers)
    batch = AtomicBatch.join([collate([alloy(ATOMS)], plain.graph)] * STRUCTURES)
    frugal = copy.deepcopy(plain)
    checkpoint_activations(frugal.model, "eqv2")
    found: dict[str, tuple[Potential, Form]] = {
        "fast path": (plain, nullcontext),
        "fast path, checkpointed": (frugal, nullcontext),
        "reference path": (plain, lambda: forced("reference")),
        "reference path, checkpointed": (frugal, lambda: forced("reference")),
    }
    if compiling:
        compiled = copy.deepcopy(plain)
        compiled.model.compile(dynamic=True)
        found["reference path, compiled"] = (compiled, nullcontext)
    return found, batch


def grown(name: str, n_layers: int) -> int:
    """Bytes by which the process grows in two steps."""
    found, batch = variants(n_layers, "compiled" in name)
    model, form = found[name]
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far was that of the process which started this one
    before = highest()
    for _ in range(2):
        with form():
            step(model, batch)
    return highest() - before


def highest() -> int:
    """Largest resident memory so far [bytes], by Linux."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="also the compiled model; no memory")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--grown", metavar="VARIANT", help="print the bytes by which this variant grows, and no more")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.grown:
        print(grown(arguments.grown, arguments.layers))
        return
    found, batch = variants(arguments.layers, arguments.compile)
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(ROUNDS + 1):
        for name, (model, form) in found.items():
            with form():
                start = time.process_time()
                step(model, batch)
            seconds[name].append(time.process_time() - start)
    print(f"{machine()}; torch {torch.__version__}, 1 thread")
    print(f"{arguments.layers} layers, {batch.n_atoms} atoms, {batch.n_edges:,} edges\n")
    print("| variant | first step, s | median step, s | fastest | memory, MB |\n|---|---|---|---|---|")
    for name, (first, *times) in seconds.items():
        command = [sys.executable, __file__, "--layers", str(arguments.layers), "--grown", name]
        memory = "" if arguments.compile else f"{int(subprocess.check_output(command)) / 1e6:.0f}"
        print(f"| {name} | {first:.1f} | {statistics.median(times):.3f} | {min(times):.3f} | {memory} |", flush=True)


if __name__ == "__main__":
    main()
