"""How the cost of EquiformerV2 grows with the size of its input: atoms and edges over two decades.

    python benchmarks/eqv2_linear.py [--reference] [--json FILE]

Batches of one crystal repeated 1 to 100 times, so that atoms and edges grow together (with the published rule an atom
has as many neighbours anywhere), and one crystal whose atoms get more and more neighbours, so that edges grow alone. Of
each: FLOPs and seconds of a training step (forward, loss, backward; best of several), and of both the largest deviation
from a straight line through all points. One thread, float32. Prints the tables of docs/eqv2.md.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.flops import count_step
from matscale.core.hosting.host import host
from matscale.core.model.architecture import DatasetInfo
from matscale.core.model.potential import Potential
from matscale.plugins.eqv2.fast import forced

COPIES = (1, 2, 5, 10, 20, 50, 100)
NEIGHBORS = (4, 10, 20, 40, 100, 200, 400)
WIDTHS = {
    **dict.fromkeys(("channels", "edge_channels", "attention_hidden", "ffn_hidden"), 32),
    **dict.fromkeys(("n_heads", "value_channels", "alpha_channels"), 8),
    "n_layers": 2,
    "lmax": 3,
    "grid_resolution": 14,
}
SECONDS, PASSES = 0.5, 5
"""Spent on each point in a pass over all of them, at least a step; of all passes the fastest step counts."""


def alloy(n: int) -> Structure:
    """A strained and rattled cell of `n` atoms of copper and gold."""
    rng = np.random.default_rng(0)
    side = (17.0 * n) ** (1 / 3)  # Å; 17 Å³ for each atom
    cell = side * (np.eye(3) + 0.02 * rng.standard_normal((3, 3)))
    shells = int(np.ceil(n ** (1 / 3)))
    sites = np.array([[x, y, z] for x in range(shells) for y in range(shells) for z in range(shells)])[:n] / shells
    positions = sites @ cell + 0.05 * rng.standard_normal((n, 3))
    return Structure(rng.choice([29, 79], n), positions, cell, np.array([True] * 3))


def potential(**options: object) -> Potential:
    family = host().architecture("eqv2")
    config = family.config.parse({**WIDTHS, **options})
    return Potential.of(family, config, DatasetInfo.any(), seed=0).train()


def growing_batches() -> list[tuple[Potential, AtomicBatch]]:
    """Atoms and edges in proportion."""
    model = potential()
    one = collate([alloy(8)], model.graph)
    return [(model, AtomicBatch.join([one] * copies)) for copies in COPIES]


def growing_neighbourhoods() -> list[tuple[Potential, AtomicBatch]]:
    """Edges alone."""
    models = [potential(max_neighbors=n) for n in NEIGHBORS]
    return [(model, collate([alloy(8)], model.graph)) for model in models]


def step(model: Potential, batch: AtomicBatch) -> None:
    outputs = model(batch)
    assert outputs.forces is not None
    assert outputs.stress is not None
    (outputs.energy.sum() + outputs.forces.square().sum() + outputs.stress.square().sum()).backward()
    model.zero_grad(set_to_none=True)


def fastest(model: Potential, batch: AtomicBatch) -> float:
    """Seconds of the fastest of the steps of a pass."""
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        step(model, batch)
        best = min(best, time.perf_counter() - start)
    return best


def deviation(sizes: list[float], costs: list[float]) -> float:
    """Largest relative distance from the straight line that fits the points best, relative distances squared."""
    x, y = np.array(sizes), np.array(costs)
    line = np.stack([np.ones_like(x), x], axis=1)
    coefficients = np.linalg.lstsq(line / y[:, None], np.ones_like(y), rcond=None)[0]
    return float(np.abs(line @ coefficients / y - 1).max())


def measure(batches: list[tuple[Potential, AtomicBatch]]) -> list[dict[str, Any]]:
    for model, batch in batches:
        step(model, batch)
    passes = [[fastest(model, batch) for model, batch in batches] for _ in range(PASSES)]
    return [
        {"atoms": b.n_atoms, "edges": b.n_edges, "flops": count_step(m, b), "seconds": min(times)}
        for (m, b), times in zip(batches, zip(*passes))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", action="store_true", help="time the reference path, not the fast one")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}; torch {torch.__version__}, 1 thread\n")
    found = {}
    for what, batches in (("batches", growing_batches()), ("neighbourhoods", growing_neighbourhoods())):
        with forced("reference") if arguments.reference else nullcontext():
            rows = found[what] = measure(batches)
        print(f"growing {what}:\n\n| atoms | edges | GFLOP | s | µs per edge |\n|---|---|---|---|---|")
        for r in rows:
            each = 1e6 * r["seconds"] / r["edges"]
            print(f"| {r['atoms']} | {r['edges']:,} | {r['flops'] / 1e9:.3g} | {r['seconds']:.3g} | {each:.1f} |")
        edges = [float(r["edges"]) for r in rows]
        lines = {name: deviation(edges, [r[name] for r in rows]) for name in ("flops", "seconds")}
        print(f"\noff a straight line: FLOPs {lines['flops']:.1%}, time {lines['seconds']:.1%}\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
