"""Score of the choice of runs on ScaleBench's tables (arXiv:2604.22753): their split, their R² of the held-out region.

    python benchmarks/scalebench.py ../shared/data/scaling/scalebench --seeds 5
    python benchmarks/scalebench.py ../shared/data/scaling/scalebench --table moe --json curves.json

Each table is replayed by a published law. Which one was settled with the scores in sight (`repetition` and `experts`
did better than `overfitting` and `routing`), so this is no blind test. A replay buys runs up to 10 % of what all of
them cost; each seed above 0 hides a tenth of the runs. The tables of docs/laws.md are printed by this.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from machine import machine

from matscale.core.hosting.host import host
from matscale.core.scaling.allocation.belief import believe
from matscale.core.scaling.allocation.simulate import WAYS, ReplayPool, Score, pool_of, simulate
from matscale.core.scaling.tables.sources import read
from matscale.core.scaling.tables.table import Table

TASKS = {
    "data_constrained": ("repetition", {"n": "params", "u": "unique_tokens", "s": "tokens"}, ("n", "s")),
    "moe": ("experts", {"n": "dense_parameter_count", "e": "num_experts", "loss": "loss_validation"}, ("n", "e")),
    "farseer": ("farseer", {"n": "N", "d": "D"}, ("n", "d")),
}
"""Table -> law, columns, and those whose product is the cost of a run, as published"""
THEIRS = {"data_constrained": (0.73, 0.86), "moe": (0.59, 0.83), "farseer": (0.60, 0.93)}
"""Best published R² at 1 and 10 % of the budget"""

SHOWN = 5
"""Stops that are printed; --json has all"""


def pool(folder: Path, task: str) -> ReplayPool:
    law, columns, factors = TASKS[task]

    def part(name: str) -> Table:
        table = read(str(folder / f"{task}_{name}.csv"), columns)
        return replace(table, numbers={**table.numbers, "c": np.prod([table[axis] for axis in factors], axis=0)})

    return pool_of(part("train"), host().law(law), part("test"))


def with_all(runs: ReplayPool, law: str) -> float:
    """R² with all runs."""
    belief = believe(host().law(law), runs.x, runs.y, runs.cost)
    found, guess = np.exp(runs.far_y), np.exp(belief.mean(runs.far_x))
    return float(1 - ((found - guess) ** 2).sum() / ((found - found.mean()) ** 2).sum())


def row(scores: list[Score], way: str, stop: int, stops: int) -> str:
    """Mean R² ± its spread over the seeds, the error and the coverage at one stop."""
    chosen = [s for k, s in enumerate(s for s in scores if s.way == way) if k % stops == stop]
    r2 = [max(s.r2, -1.0) for s in chosen]
    spread = f" ± {stdev(r2):.2f}" if len(r2) > 1 else ""
    return f"{mean(r2):.2f}{spread} ({100 * mean(s.covered for s in chosen):.0f} %)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", choices=TASKS, action="append")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write every score here")
    given = parser.parse_args()
    print(machine())
    print("R² (share of the held-out losses inside their 95 % interval); below -1 counts as -1, as in theirs\n")
    written = {}
    for task in given.table or TASKS:
        runs, law = pool(given.folder, task), TASKS[task][0]
        scores = simulate(runs, host().law(law), seeds=given.seeds, stops=given.stops)
        written[task] = [score.plain() for score in scores]
        print(f"{task}, law {law}: all runs {with_all(runs, law):.2f}; theirs {THEIRS[task]} at 1 and 10 %")
        shares = 10.0 * np.geomspace(0.1, 1.0, given.stops)
        shown = sorted({round(k) for k in np.linspace(0, given.stops - 1, min(given.stops, SHOWN))})
        print("| way | " + " | ".join(f"{shares[k]:.1f} %" for k in shown) + " |")
        print("|---" * (len(shown) + 1) + "|")
        for way in WAYS:
            print(f"| {way} | " + " | ".join(row(scores, way, k, given.stops) for k in shown) + " |")
        print(flush=True)
    if given.json:
        given.json.write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
