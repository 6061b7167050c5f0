"""Cost of examples/gpu-day.toml, and how wide the intervals of its exponents will be. Needs no data and no GPU.

    python benchmarks/gpu_day.py [--mfu 0.05] [--peak 67e12] [--atoms 19] [--scatter 0.03] [--tables 100]

FLOPs: those of a training step on the reference crystal (docs/flops.md), per atom, times atoms per structure (assumed)
and structures per run. Hours: these over peak × MFU; both are stated. A step of a small model is not bound by FLOPs but
by the kernels that it launches: the second figure counts --step milliseconds for each step at least.

Intervals: tables of losses 30 N^-0.3 whose size means scatter about the law by --scatter in ln loss, fitted by
`matscale.fit` as the study will be; the median over tables of the width of the 95 % interval, and how often it held the
exponent.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from matscale.core.errors import MatscaleError
from matscale.core.estimate.describe import describe
from matscale.core.hosting.host import host
from matscale.core.scaling.fit import fit
from matscale.core.study.config import ArchitectureGrid, Study
from matscale.core.study.plan import _sizes as sizes

STUDY = Path(__file__).parents[1] / "examples" / "gpu-day.toml"
EXPONENT, PREFACTOR = 0.3, 30.0


def flops_per_atom(study: Study, grid: ArchitectureGrid) -> list[tuple[int, float]]:
    """(parameters, FLOPs per atom of a training step) of each size of one architecture."""
    alone = study.model_copy(update={"architectures": (grid,)})
    found = []
    for size in sizes(alone):
        described = describe(size.architecture, size.architecture.config.parse(size.config), host())
        assert described.flops_per_atom is not None
        found.append((size.parameters["total"], described.flops_per_atom))
    return found


def cost(study: Study, options: argparse.Namespace) -> None:
    steps, batch = study.budget.steps[0], study.set["batch"]["structures"]
    repeats = len(study.seeds) * max(len(study.data.counts), 1)
    print("| architecture | parameters | FLOPs of a run | runs | FLOPs | hours by FLOPs | hours, with launches |")
    print("|---|---|---|---|---|---|---|")
    total = np.zeros(3)
    for grid in study.architectures:
        try:
            each = flops_per_atom(study, grid)
        except MatscaleError as error:
            print(f"| {grid.name} | left out: {error} | | | | | |")
            continue
        flops = np.array([per_atom * options.atoms * steps * batch for _, per_atom in each])
        seconds = flops / (options.peak * options.mfu)
        bound = np.maximum(seconds, steps * options.step / 1e3)
        sums = repeats * np.array([flops.sum(), seconds.sum() / 3600, bound.sum() / 3600])
        total += sums
        print(
            f"| {grid.name} | {each[0][0]:,} to {each[-1][0]:,} | {flops[0]:.2g} to {flops[-1]:.2g} "
            f"| {repeats * len(each)} | {sums[0]:.2g} | {sums[1]:.1f} | {sums[2]:.1f} |"
        )
    print(f"| all | | | | {total[0]:.2g} | {total[1]:.1f} | {total[2]:.1f} |")


def widths(x: np.ndarray, scatter: float, tables: int, name: str) -> None:
    rng, found = np.random.default_rng(0), []
    for _ in range(tables):
        losses = PREFACTOR * x**-EXPONENT * np.exp(scatter * rng.standard_normal(len(x)))
        result = fit([{name: float(a), "loss": float(b)} for a, b in zip(x, losses)], law="power", axis=name)
        found.append(result.intervals["alpha"])
    low, high = np.array(found).T
    held = ((low < EXPONENT) & (high > EXPONENT)).mean()
    print(f"| {name}, {len(x)} values | {scatter:.2f} | {np.median(high - low):.3f} | {100 * held:.0f} % |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mfu", type=float, default=0.05, help="Share of the peak that is assumed.")
    parser.add_argument("--peak", type=float, default=67e12, help="FLOP/s: float32 of an H100.")
    parser.add_argument("--atoms", type=float, default=19, help="Atoms per structure that are assumed.")
    parser.add_argument("--step", type=float, default=20, help="Milliseconds that launches take in a step, at least.")
    parser.add_argument("--scatter", type=float, nargs="+", default=[0.02, 0.03, 0.05])
    parser.add_argument("--tables", type=int, default=100)
    options = parser.parse_args()
    study = Study.read(STUDY)
    cost(study, options)
    print("\n| variable | scatter of ln loss | width of the 95 % interval | holds the exponent |\n|---|---|---|---|")
    for scatter in options.scatter:
        widths(np.geomspace(3e4, 3e6, 8), scatter, options.tables, "n")
    for scatter in options.scatter:
        widths(np.geomspace(1e4, 3.2e5, 4), scatter, options.tables, "d")


if __name__ == "__main__":
    main()
