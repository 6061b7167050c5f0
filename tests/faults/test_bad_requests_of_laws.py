"""Requests of laws that cannot be met: one sentence that says what was given and what to do, and the exit code."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from matscale.cli.laws.fit import compare, fit
from matscale.cli.laws.plan import plan
from matscale.core.errors import MatscaleError

COMMANDS = {"fit": fit, "compare": compare, "plan": plan}


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    sizes = np.geomspace(1e4, 1e6, 6).round()
    ladder = [{"arch": a, "n": n, "loss": k * 20 * n**-0.3} for a, k in (("one", 1.0), ("two", 1.3)) for n in sizes]
    grid = [
        {
            "arch": "one",
            "n": n,
            "d": d,
            "c": 6 * n * d,
            "loss": 0.5 + 30 * n**-0.3 + 60 * d**-0.35 + 0.002 * rng.random(),
        }
        for n in sizes
        for d in np.geomspace(1e3, 1e5, 5).round()
    ]
    alone: list[dict[str, Any]] = [{"arch": f"m{k}", "n": n, "loss": 20 * n**-0.3} for k, n in enumerate(sizes)]
    few = [*ladder, *({"arch": f"lone{k}", "n": 20_000, "loss": 1.0} for k in range(9))]
    unnamed = [{"n": row["n"], "loss": row["loss"]} for row in ladder[:6]]
    free = [{name: value for name, value in row.items() if name != "c"} for row in grid]
    single = [
        {"arch": a, "n": 20_000, "seed": seed, "loss": 1 + 0.01 * seed} for a in ("one", "two") for seed in (0, 1)
    ]
    every = {
        "free": free,
        "single": single,
        "ladder": ladder,
        "grid": grid,
        "alone": alone,
        "few": few,
        "unnamed": unnamed,
    }
    for name, rows in every.items():
        with open(tmp_path / f"{name}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "said", "code"),
    [
        ("fit ladder.csv --target spin", "has no column 'spin'", 2),
        ("compare ladder.csv --target spin", "has no column 'spin'", 2),
        ("plan grid.csv --flops 1e10 --target spin", "has no column 'spin'", 2),
        ("plan grid.csv --simulate --target spin", "has no column 'spin'", 2),
        ("fit alone.csv --pool --target spin", "has no column 'spin'", 2),
        ("compare ladder.csv --margin 0", "--margin 0: the margin is the largest difference", 2),
        ("compare ladder.csv --margin nan", "--margin nan: the margin is the largest difference", 2),
        ("plan grid.csv --loss 0", "--loss 0: the target loss must be above 0", 2),
        ("plan grid.csv --loss nan", "--loss nan: the target loss must be above 0", 2),
        ("plan grid.csv --loss inf", "--loss inf: the target loss must be above 0 and finite", 2),
        ("plan free.csv --simulate --cost n,q", "--cost n,q: there is no column 'q'. Known: d, loss, n.", 2),
        ("compare ladder.csv --at-loss nan", "--at-loss nan: no two architectures have points on both sides", 2),
        ("compare single.csv", "2 architectures (one, two) have fewer than 3 sizes, too few to compare", 3),
        ("fit single.csv --law mixed", "its offset cannot be told from its residual", 3),
        ("plan grid.csv --next 2 --budget 1 --for alpha=0.0001", "the cheapest candidate costs", 2),
        ("plan grid.csv --simulate --budget 1", "Give 1.86e+10 or more", 2),
        ("plan grid.csv --simulate --law power", "needs a law in several variables", 2),
        ("compare alone.csv", "has one row, and a law needs at least four sizes. Fit one law", 3),
        ("compare few.csv", "9 architectures (lone0, lone1, lone2, lone3, lone4 and 4 more) have fewer than 3", 3),
        ("fit alone.csv", "has one row, and a law needs at least four sizes. Fit one law", 3),
        ("fit alone.csv --law mixed", "its offset cannot be told from its residual", 3),
        ("fit unnamed.csv --pool", "all rows belong to one architecture, so there is nothing to pool", 2),
        ("fit unnamed.csv --law mixed", "all rows belong to one (without a name)", 3),
    ],
)
def test_a_request_that_cannot_be_met_is_answered_in_a_sentence(
    tables: Path, monkeypatch: pytest.MonkeyPatch, command: str, said: str, code: int
) -> None:
    monkeypatch.chdir(tables)
    name, *options = command.split()
    few = ["--samples", "50"] if name == "plan" else []
    with pytest.raises(MatscaleError) as caught:
        CliRunner().invoke(COMMANDS[name], [*options, "--no-baselines", *few], catch_exceptions=False)
    assert said in str(caught.value)
    assert caught.value.exit_code == code
    assert len(str(caught.value)) < 400
