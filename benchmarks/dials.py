"""How often checks and predictions of curves, and laws of learning rates, are right, by simulation.

    python benchmarks/dials.py collapse --reps 1000      sizes named that are sound; sizes named that are off
    python benchmarks/dials.py forecasts --reps 1000     intervals of the loss at the end of a run
    python benchmarks/dials.py hopeless --reps 400       runs that are given up
    python benchmarks/dials.py dials --reps 1000         exponents of LR(N, D), and verdicts
    python benchmarks/dials.py public                    ends of public curves, each by the others

Every row of the tables in docs/laws.md that name this file is printed by one of these.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from simulation import Outcomes, main

from matscale.core.scaling.curves.collapse import check
from matscale.core.scaling.curves.forecast import forecast
from matscale.core.scaling.curves.normalised import Curve, curves
from matscale.core.scaling.curves.running import Running, hopeless
from matscale.core.scaling.dials.law import LEARNING_RATE, dial_law
from matscale.core.scaling.dials.optima import Optimum
from matscale.core.scaling.law import Array
from matscale.core.scaling.tables.sources import read

SHARE = np.linspace(0.05, 1.0, 20)
EXCESSES = (0.1, 0.2, 0.4)
"""Excess of the loss of a size at the beginning of its runs, in ln."""


@dataclass(frozen=True)
class Sweep:
    """Curves L(t) = E + A N^-alpha + B t^-0.4 + C (1 + cos πt) of a sweep over sizes, and their noise in ln."""

    sizes: int = 8
    decades: float = 2.0
    seeds: int | Sequence[int] = 1
    noise: float = 0.01
    """Between seeds, of every validation; that of neighbouring validations is correlated, 0.8"""
    scatter: float = 0.0
    """Scatter of sizes, in the loss of the middle of a run over its end"""
    floor: float = 1.0
    growth: float = 1.0
    """Noise at the largest size over that at the smallest"""

    def __str__(self) -> str:
        seeds = self.seeds if isinstance(self.seeds, int) else ", ".join(map(str, self.seeds))
        said = [f"{self.sizes} sizes, {self.decades:g} decades, {seeds} seeds, noise {self.noise:g}"]
        said += [f"scatter {self.scatter:g}"] if self.scatter else []
        said += [f"floor {self.floor:g}"] if self.floor != 1 else []
        said += [f"noise grows {self.growth:g}-fold"] if self.growth != 1 else []
        return ", ".join(said)

    def curves(self, rng: np.random.Generator, off: int | None = None, excess: float = 0.0) -> list[Curve]:
        """Runs of the sweep; the loss of size `off` at the beginning is e^excess times too high."""
        found = []
        sizes = np.geomspace(1e4, 10 ** (4 + self.decades), self.sizes)
        noise = self.noise * np.geomspace(1.0, self.growth, self.sizes)
        for k, n in enumerate(sizes):
            clean = np.log(self.floor + 30 * n**-0.3 + 0.9 * SHARE**-0.4 + 0.3 * (1 + np.cos(np.pi * SHARE)))
            bend = self.scatter * rng.standard_normal() + (excess if k == off else 0.0)
            for _ in range(self.seeds if isinstance(self.seeds, int) else self.seeds[k]):
                found.append(Curve("", {"n": n}, SHARE, clean + bend * (1 - SHARE) + noise[k] * correlated(rng)))
        return found


def correlated(rng: np.random.Generator, rho: float = 0.8) -> Array:
    """Noise along a run, with variance 1."""
    steps = rng.standard_normal(len(SHARE))
    found = np.empty_like(steps)
    found[0] = steps[0]
    for k in range(1, len(steps)):
        found[k] = rho * found[k - 1] + np.sqrt(1 - rho**2) * steps[k]
    return found


def collapse(reps: int) -> None:
    """Sweeps in which a sound size is named; and sizes found that are off by some excess at their beginning."""
    print("sweep | named without a fault (%) | found of an excess of 0.1, 0.2, 0.4 (%)")
    for sweep in (
        Sweep(5),
        Sweep(8),
        Sweep(12),
        Sweep(8, seeds=3),
        Sweep(8, noise=0.003, decades=3, floor=3),
        Sweep(8, noise=0.003, decades=3, floor=0),
        Sweep(8, scatter=0.03),
        Sweep(8, growth=6.5),
        Sweep(8, seeds=(3, 3, 1, 1, 1, 1, 3, 3)),
    ):
        found = Outcomes(reps, seed=0)
        for rng in found:
            found.saw(named=bool(check(sweep.curves(rng)).off))
        for excess in EXCESSES:
            for _ in range(reps // 4):
                runs = sweep.curves(rng, k := int(rng.integers(sweep.sizes)), excess)
                n = sorted({run.size["n"] for run in runs})[k]
                found.saw(**{f"{excess}": any(abs(one.size["n"] / n - 1) < 0.01 for one in check(runs).off)})
        shares = ", ".join(f"{found.percent(f'{excess}'):.0f}" for excess in EXCESSES)
        print(f"{sweep} | {found.percent('named'):.1f} | {shares}", flush=True)


def forecasts(reps: int) -> None:
    """Share of 95 % intervals that hold the loss at the end of a run, by all other runs of a sweep."""
    print("sweep, share done | any run held (%) | the largest size held (%) | half-width (%)")
    for sweep, share in (
        (Sweep(6), 0.3),
        (Sweep(6), 0.7),
        (Sweep(8, scatter=0.03), 0.5),
        (Sweep(8, seeds=3), 0.5),
        (Sweep(4, seeds=3, scatter=0.03), 0.5),
        (Sweep(8, noise=0.003, decades=3, floor=3), 0.5),
        (Sweep(8, growth=6.5), 0.5),
    ):
        found = Outcomes(reps, seed=0)
        for rng in found:
            runs = sweep.curves(rng)
            largest = max(run.size["n"] for run in runs)
            for which, k in (("any", int(rng.integers(len(runs)))), ("largest", len(runs) - 1)):
                rest = [run for j, run in enumerate(runs) if j != k and (which == "any" or run.size["n"] < largest)]
                kept = share + 1e-9 >= SHARE
                told = forecast(Curve("", runs[k].size, SHARE[kept], runs[k].logs[kept]), rest)
                if not told.reason:
                    found.saw(**{which: told.low <= float(np.exp(runs[k].logs[-1])) <= told.high})
                if which == "any":
                    found.saw(width=np.log(told.high / told.low) / 2)
        shares = " | ".join(f"{found.percent(w):.1f}" if found.values[w] else "refused" for w in ("any", "largest"))
        print(f"{sweep}, {share:.0%} | {shares} | {100 * found.median('width'):.1f}", flush=True)


def hopeless_runs(reps: int) -> None:
    """Runs given up, looked at from 20 % to 90 % of the way, by how much worse they truly end than a finished one."""
    print("their end over that of the finished run (%) | given up (%) | of these, ended below it (%)")
    sizes = np.geomspace(1e4, 1e6, 6)
    for worse in (-0.02, 0.0, 0.02, 0.05, 0.1, 0.2):
        found = Outcomes(reps, seed=0)
        for rng in found:
            sweep = Sweep(6)
            runs = [
                Running(Path(f"{k}-{lr}"), "", replace(one, size={**one.size, "lr": lr}), True)
                for lr in (1e-3, 4e-3)
                for k, one in enumerate(sweep.curves(rng))
            ]
            k = int(rng.integers(len(sizes)))
            new = sweep.curves(rng)[k]
            logs = new.logs + worse
            given_up = False
            for share in np.arange(0.2, 0.95, 0.1):
                kept = share + 1e-9 >= SHARE
                part = Curve("", {**new.size, "lr": 2e-3}, SHARE[kept], logs[kept])
                given_up |= bool(hopeless([*runs, Running(Path("new"), "", part, False)]))
            found.saw(stopped=given_up)
            if given_up:
                best = min(run.curve.logs[-1] for run in runs if run.curve.size["n"] == new.size["n"])
                found.saw(wrong=logs[-1] < best)
        wrong = found.percent("wrong") if found.values["wrong"] else 0.0
        print(f"{100 * worse:+.0f} | {found.percent('stopped'):.1f} | {wrong:.1f}", flush=True)


def dials(reps: int) -> None:
    """Coverage of the exponents of LR(N, D), and verdicts; noise of ln LR, of each optimum and common to a size."""
    print("sizes x data, noise, common to a size, bend per (ln N)^2 | b, c held (%) | half-width of b | verdicts")
    for n_sizes, n_data, noise, common, bend in (
        (5, 1, 0.1, 0.0, 0.0),
        (8, 1, 0.1, 0.0, 0.0),
        (5, 4, 0.1, 0.0, 0.0),
        (6, 6, 0.1, 0.1, 0.0),
        (6, 6, 0.03, 0.1, 0.0),
        (8, 1, 0.1, 0.0, 0.05),
        (6, 6, 0.1, 0.0, 0.05),
    ):
        found = Outcomes(reps, seed=0)
        data = np.geomspace(1e4, 1e6, n_data) if n_data > 1 else np.array([math.nan])
        for rng in found:
            optima = []
            for n in np.geomspace(1e3, 1e5, n_sizes):
                shared = common * rng.standard_normal() + bend * np.log(n / 1e4) ** 2
                for d in data:
                    rate = 0.1 * n**-0.3 * (1.0 if n_data == 1 else d**0.2)
                    optima.append(Optimum(n, d, rate * math.exp(shared + noise * rng.standard_normal()), math.nan))
            law = dial_law(optima, LEARNING_RATE, ("n",) if n_data == 1 else ("n", "d"))
            for axis, (low, high) in law.intervals.items():
                found.saw(**{axis: low <= {"n": -0.3, "d": 0.2}[axis] <= high, f"width of {axis}": (high - low) / 2})
            found.words[law.verdict] += 1
        shares = ", ".join(f"{found.percent(axis):.1f}" for axis in ("n", "d")[: 1 + (n_data > 1)])
        kind = f"{n_sizes} x {n_data}, {noise:g}, {common:g}, {bend:g}"
        print(f"{kind} | {shares} | {found.median('width of n'):.3f} | {found.said()}", flush=True)


def public(reps: int) -> None:
    """Public curves: the end of each run by the first part of it and all other runs; `reps` plays no part."""
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    steps = {"n": "params_active_precise", "loss": "final_loss", "run": "run_name", "step": "step"}
    epochs = {"n": "num_params", "d": "dataset_size", "loss": "val_loss", "step": "epoch", "run": "num_params"}
    tables = [(f"scaling/gemstones/wandb_df_for_fitting_{kind}.jsonl", steps) for kind in ("hot", "cool_end")]
    print("table, share done | held | half-width (%) | median error (%)")
    for name, columns in (*tables, ("trikha2025/interactive_curves.csv", epochs)):
        source = shared / name
        if source.suffix == ".csv":  # the epoch before training has no compute
            rows: Any = [row for row in csv.DictReader(source.open()) if row["epoch"] != "0"]
        table = read(rows if source.suffix == ".csv" else source, columns)
        runs = [run for run in curves(table) if len(run.share) >= 8]
        print(f"{name}: {check(runs).text}")
        for share in (0.3, 0.5, 0.7):
            held, widths, errors = 0, [], []
            for k, run in enumerate(runs):
                kept = run.share <= share + 1e-9
                found = forecast(Curve(run.run, run.size, run.share[kept], run.logs[kept]), [*runs[:k], *runs[k + 1 :]])
                end = float(np.exp(run.logs[-1]))
                if not found.reason:
                    held += found.low <= end <= found.high
                    widths.append(np.log(found.high / found.low) / 2)
                    errors.append(abs(found.predicted / end - 1))
            told = f"{100 * np.median(widths):.1f} | {100 * np.median(errors):.1f}"
            print(f"{name}, {share:.0%} | {held} of {len(widths)} | {told}", flush=True)


TASKS: dict[str, Callable[[int], None]] = {
    "collapse": collapse,
    "forecasts": forecasts,
    "hopeless": hopeless_runs,
    "dials": dials,
    "public": public,
}


if __name__ == "__main__":
    main(__doc__, TASKS, reps=300)
