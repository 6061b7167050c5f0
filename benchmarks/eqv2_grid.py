"""How nearly EquiformerV2 keeps rotations, by the resolution of the grids on which its activations act.

    python benchmarks/eqv2_grid.py [--json FILE]
    python benchmarks/eqv2_grid.py --steps 9 [--reference]

For random weights as training starts with, and for the same weights of all linear maps made three times as large, the
largest change of energy, forces and stress in a turned structure, over the largest value of each, in float64. The
structures are three rattled crystals, turned four ways. Prints a table for docs/eqv2.md, with the time of a forward.

With --steps: the time of forward and backward in float32 on both kinds of grid, in turns on the same batch; medians.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from machine import machine
from torch import nn

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.model.outputs import Outputs, model_outputs
from matscale.core.model.reference_path import reference_path
from matscale.core.model.sphere.grid import LEBEDEV
from matscale.plugins.eqv2 import SIZES as SIZES_BY_NAME
from matscale.plugins.eqv2 import EqV2, EqV2Config, graph

WIDTHS = {"channels": 32, "edge_channels": 32, "attention_hidden": 32, "ffn_hidden": 32, "n_heads": 4, "n_layers": 3}
DEGREES = {(3, 2): (8, 10, 14, 18, 24, 32), (4, 2): (10, 14, 18, 24, 32, 48), (6, 3): (14, 18, 24, 32)}
"""(lmax, mmax) -> resolutions, from the coarsest that is possible. Where a Lebedev rule is missing: the next finer."""
SIZES = ("ladder-10", "ladder-13", "ladder-16")
TURNS = 4


def crystals() -> list[Structure]:
    """Perovskite, fcc alloy and rock salt, strained and rattled."""
    rng = np.random.default_rng(0)
    fcc = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    cells: list[tuple[list[int], float, list[list[float]]]] = [
        ([38, 22, 8, 8, 8], 3.9, [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]),
        ([29, 29, 79, 79], 3.8, fcc),
        ([12, 12, 12, 12, 8, 8, 8, 8], 4.2, fcc + [[x + 0.5, y, z] for x, y, z in fcc]),
    ]
    made = []
    for numbers, a, sites in cells:
        cell = a * (np.eye(3) + 0.03 * rng.standard_normal((3, 3)))
        positions = np.array(sites) @ cell + 0.1 * rng.standard_normal((len(numbers), 3))
        made.append(Structure(np.array(numbers), positions, cell, np.array([True] * 3)))
    return made


def lebedev_like(resolution: int) -> int:
    """The resolution itself or, if there is no such Lebedev rule, the next finer."""
    return min(r for r in LEBEDEV if r >= resolution)


def turned(structure: Structure, rotation: np.ndarray) -> Structure:
    return replace(structure, positions=structure.positions @ rotation.T, cell=structure.cell @ rotation.T)


def make(config: EqV2Config, factor: float) -> EqV2:
    """A float64 model whose linear maps are `factor` times as large as they start."""
    torch.manual_seed(0)
    model = EqV2(config).double().eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "norm" not in name and ".source." not in name and ".target." not in name:
            parameter.data *= factor
    return model


def error(model: nn.Module, still: AtomicBatch, moved: AtomicBatch, rotation: torch.Tensor, derive: bool) -> np.ndarray:
    """Relative errors of energy, forces and stress."""
    with torch.no_grad():
        a, b = model_outputs(model, still, derive=derive), model_outputs(model, moved, derive=derive)
    assert a.forces is not None
    assert a.stress is not None
    expected = Outputs(a.energy, a.forces @ rotation.T, rotation @ a.stress @ rotation.T)
    pairs = [(getattr(b, name), getattr(expected, name)) for name in ("energy", "forces", "stress")]
    return np.array([float((x - y).abs().max() / y.abs().max()) for x, y in pairs])


def measure(config: EqV2Config, factor: float) -> dict[str, float]:
    """Largest errors over the turns, and the seconds of a forward."""
    rng = np.random.default_rng(1)
    model, structures = make(config, factor), crystals()
    still = collate(structures, graph(config), torch.float64)
    derive = config.forces == "gradient"
    errors = []
    for _ in range(TURNS):
        q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        rotation = q * np.linalg.det(q)
        moved = collate([turned(s, rotation) for s in structures], graph(config), torch.float64)
        errors.append(error(model, still, moved, torch.from_numpy(rotation), derive))
    start = time.perf_counter()
    model_outputs(model, still, derive=derive)
    seconds = time.perf_counter() - start
    return dict(zip(("energy", "forces", "stress"), np.max(errors, axis=0).tolist()), seconds=seconds)


def step_times(size: str, repeats: int) -> dict[str, float]:
    """Median seconds of forward and backward by kind of grid, both on one batch of 34 atoms, one after the other."""
    taken: dict[str, list[float]] = {"product": [], "lebedev": []}
    published = SIZES_BY_NAME[size].model_copy(update={"stress_head": "equivariant"})
    batch = collate(crystals() * 2, graph(published), torch.float32)
    models = {grid: EqV2(published.model_copy(update={"grid": grid})) for grid in taken}
    for k in range(repeats + 1):
        for grid, model in models.items():
            model.zero_grad()
            start = time.perf_counter()
            outputs = model(batch)
            assert outputs.forces is not None
            assert outputs.stress is not None
            (outputs.energy.sum() + outputs.forces.square().sum() + outputs.stress.square().sum()).backward()
            if k:  # the first is a warm-up
                taken[grid].append(time.perf_counter() - start)
    return {grid: float(np.median(seconds)) for grid, seconds in taken.items()}


def print_step_times(repeats: int) -> None:
    torch.set_flush_denormal(True)
    print("| size | product, ms | lebedev, ms | ratio |\n|---|---|---|---|")
    for size in SIZES:
        seconds = step_times(size, repeats)
        product, lebedev = 1000 * seconds["product"], 1000 * seconds["lebedev"]
        print(f"| {size} | {product:.0f} | {lebedev:.0f} | {product / lebedev:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--steps", type=int, help="measure so many steps of each grid instead")
    parser.add_argument("--reference", action="store_true", help="with --steps: on the reference path")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}; torch {torch.__version__}, 1 thread\n")
    if arguments.steps:
        with reference_path() if arguments.reference else nullcontext():
            print_step_times(arguments.steps)
        return
    rows = []
    print("| lmax, mmax | weights | grid | points | energy | forces | stress | forward, s |\n" + 8 * "|---" + "|")
    for (lmax, mmax), resolutions in DEGREES.items():
        for factor, kind in itertools.product((1.0, 3.0), ("product", "lebedev")):
            for resolution in resolutions:
                grid = {"grid": kind, "grid_resolution": resolution if kind == "product" else lebedev_like(resolution)}
                config = EqV2Config(**WIDTHS, lmax=lmax, mmax=mmax, n_radial=128, **grid)
                row = {"lmax": lmax, "mmax": mmax, "factor": factor, **grid, **measure(config, factor)}
                rows.append(row)
                figures = " | ".join(f"{row[name]:.0e}" for name in ("energy", "forces", "stress"))
                print(
                    f"| {lmax}, {mmax} | × {factor:g} | {kind} {config.grid_resolution} | {config.n_grid_points} | "
                    f"{figures} | {row['seconds']:.2f} |",
                    flush=True,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
