"""Simulated tables: known laws with noise between seeds and between sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from matscale.core.scaling.law import Array
from matscale.core.scaling.means import Means
from matscale.core.scaling.tables.table import Table

SIZES = tuple(np.geomspace(1e4, 1e6, 8).round())
TRUTH = {"E": 0.5, "A": 30.0, "B": 60.0, "alpha": 0.3, "beta": 0.35}


def ladder(
    rng: np.random.Generator,
    sizes: Sequence[float] = SIZES,
    *,
    floor: float = 0.0,
    prefactor: float = 30.0,
    exponent: float = 0.3,
    seeds: int = 3,
    noise: float = 0.01,
    scatter: float = 0.0,
    axis: str = "n",
    arch: str = "m",
) -> list[dict[str, object]]:
    """Rows of L = E + A x^-alpha; `noise` between seeds, `scatter` between sizes, both of ln L."""
    rows: list[dict[str, object]] = []
    for x in sizes:
        shift = scatter * rng.standard_normal()
        for seed in range(seeds):
            loss = (floor + prefactor * x**-exponent) * np.exp(shift + noise * rng.standard_normal())
            rows.append({"arch": arch, axis: float(x), "seed": seed, "loss": float(loss)})
    return rows


def grid(
    rng: np.random.Generator,
    n_sizes: int = 6,
    n_data: int = 5,
    seeds: int = 2,
    noise: float = 0.02,
    scatter: float = 0.0,
    truth: dict[str, float] = TRUTH,
    arch: str = "m",
) -> Table:
    """A table of L = E + A N^-alpha + B D^-beta on a grid, with FLOPs C = 50 N^0.9 D."""
    rows: list[dict[str, object]] = []
    for n in np.geomspace(1e4, 1e6, n_sizes).round():
        shift = scatter * rng.standard_normal()
        for d in np.geomspace(1e3, 1e5, n_data).round():
            clean = truth["E"] + truth["A"] * n ** -truth["alpha"] + truth["B"] * d ** -truth["beta"]
            for seed in range(seeds):
                loss = float(clean * np.exp(shift + noise * rng.standard_normal()))
                row = {"arch": arch, "n": float(n), "d": float(d), "c": float(50 * n**0.9 * d), "seed": seed}
                rows.append({**row, "loss": loss})
    return Table.of(rows)


def means_of(x: Array, y: Array) -> Means:
    """Size means without runs behind them, for simulations."""
    rows = [{"arch": "m", "n": float(a), "loss": float(b)} for a, b in zip(np.exp(x), np.exp(y))]
    table = Table.of(rows)
    return Means("n", x[:, None], y, np.ones(len(x), dtype=np.int64), table, np.arange(len(x)))
