"""What compiling and checkpointing activations do to a training step of EquiformerV2: time and memory.

    python benchmarks/eqv2_variants.py [--compile]

One batch, one model, float32, one thread; the variants take turns, and of each the median and the fastest step are
shown. Memory: the most that a step has alive beside weights and their gradients (`matscale.core.memory`); not of the
compiled one, whose tensors are made out of sight. Compiling takes minutes. docs/eqv2.md has the table.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from eqv2_linear import alloy, potential, step

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.memory import activation_bytes
from matscale.core.potential import Potential
from matscale.core.readable import readable_form
from matscale.core.recompute import checkpoint_activations

STRUCTURES, ATOMS, ROUNDS = 8, 8, 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="also the compiled model")
    parser.add_argument("--layers", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plain = potential(n_layers=arguments.layers)
    batch = AtomicBatch.join([collate([alloy(ATOMS)], plain.graph)] * STRUCTURES)
    frugal = copy.deepcopy(plain)
    checkpoint_activations(frugal.model, "eqv2")
    variants: dict[str, tuple[Potential, Callable]] = {
        "as trained": (plain, nullcontext),
        "readable form": (plain, readable_form),
        "checkpointed": (frugal, nullcontext),
    }
    if arguments.compile:
        compiled = copy.deepcopy(plain)
        compiled.model.compile(dynamic=True)
        began = time.perf_counter()
        step(compiled, batch)
        print(f"compiled in {time.perf_counter() - began:.0f} s")
        variants["compiled"] = (compiled, nullcontext)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(ROUNDS + 1):
        for name, (model, form) in variants.items():
            with form():
                start = time.perf_counter()
                step(model, batch)
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    print(f"{arguments.layers} layers, {batch.n_atoms} atoms, {batch.n_edges:,} edges\n")
    print("| variant | median step, s | fastest | memory, MB |\n|---|---|---|---|")
    for name, (model, form) in variants.items():
        with form():
            memory = "" if name == "compiled" else f"{activation_bytes(model, batch) / 1e6:.0f}"
        print(f"| {name} | {statistics.median(seconds[name]):.3f} | {min(seconds[name]):.3f} | {memory} |")


if __name__ == "__main__":
    main()
