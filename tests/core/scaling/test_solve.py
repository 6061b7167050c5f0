"""The search of many samples at once: few steps, and the minimum that a long search finds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from matscale.core.hosting.host import host
from matscale.core.scaling import bootstrap as bootstrapping
from matscale.core.scaling.bootstrap import bootstrap
from matscale.core.scaling.law import Array, Law
from matscale.core.scaling.solve import HUBER, objective, refine, solve
from matscale.core.scaling.tables.table import groups


def counted(law: Law) -> tuple[Law, list[int]]:
    """The same law, and how many rows its derivatives were computed for at each step."""
    rows: list[int] = []

    def tangent(theta: Array, x: Array) -> tuple[Array, Array]:
        found = law.with_derivatives(theta, x)
        rows.append(found[0].size)
        return found

    return replace(law, tangent=tangent), rows


def runs(seeds: int, noise: float = 0.02) -> tuple[Array, Array]:
    """ln (N, U, S) and ln L, of up to 20 epochs."""
    rng = np.random.default_rng(0)
    at = [(n, u, u * k) for n in np.geomspace(1e5, 1e7, 5) for u in (1e4, 1e5, 1e6) for k in (1, 5, 20)]
    x = np.log(np.repeat(at, seeds, axis=0))
    clean = 1 + 30 * np.exp(-0.25 * x[:, 0]) + 60 * np.exp(-0.35 * (x[:, 1] + 0.7 * (x[:, 2] - x[:, 1])))
    return x, np.log(clean) + noise * rng.standard_normal(len(x))


@pytest.mark.parametrize("name", ["nd", "repetition", "overfitting"])
def test_a_bootstrap_ends_in_few_steps_with_the_intervals_of_a_long_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    law, rows = counted(host().law(name))
    x, y = runs(1)
    x = x[:, [0, 2]] if name == "nd" else x
    found = solve(law, x, y, HUBER)
    sizes = groups(np.exp(x[:, 0]))
    rows.clear()
    draws = bootstrap(law, found, x, y, sizes, samples=100)
    assert sum(rows) / (100 * len(y)) < 20  # thirty or more, and not at the end, where steps are straight
    monkeypatch.setattr(bootstrapping, "refine", lambda *a, **k: refine(*a, **{**k, "steps": 400, "tolerance": 1e-13}))
    long = bootstrap(law, found, x, y, sizes, samples=100)
    for parameter in law.exponents:
        ends, best = draws.intervals()[parameter], long.intervals()[parameter]
        assert ends == pytest.approx(best, abs=0.01 * (best[1] - best[0]))


def test_runs_of_one_size_are_computed_once_and_all_count() -> None:
    law, rows = counted(host().law("nd"))
    x, y = runs(3)
    x, y = x[:, [0, 2]], y - y.mean()
    weights = np.random.default_rng(1).random(len(y))
    frame = x.mean(axis=0)
    start = law.starts(x - frame, y)[:1]
    end = refine(law, start, x - frame, y, delta=HUBER, weights=weights, steps=300, tolerance=1e-13)
    assert set(rows) <= {45, 0}
    nearby = end + 1e-4 * np.random.default_rng(2).standard_normal((200, 5))
    here, there = (objective(law, theta, x - frame, y, HUBER, weights) for theta in (end, nearby))
    assert (here <= there).all()
