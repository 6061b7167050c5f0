"""Replay a table: pretend to buy its runs one by one, and test after each purchase how well the law predicts.

The most expensive runs are held out, and predicted by the law fitted to the runs bought so far. Four strategies spend
the same budget on the same runs and fit the same law: `choose` takes the runs that reduce the uncertainty of the
held-out losses most for their cost, `random` takes any runs, `grid` runs spread over the sizes, `cost` the cheapest
runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matscale.core.errors import ConfigError, DataError
from matscale.core.files import finite
from matscale.core.scaling.allocation.belief import Belief, believe
from matscale.core.scaling.allocation.choose import choose
from matscale.core.scaling.law import Array, Law
from matscale.core.scaling.tables.table import Table

WAYS = ("choose", "random", "grid", "cost")
SHARE = 0.1
"""Default budget, as a share of the cost of all runs."""
FIRST = 0.1
"""Share of the budget after which strategies are scored for the first time.

Up to this point, the runs of `choose` are spread out, since no law can be fitted yet.
"""
FIRST_RUNS = 3
"""Number of first runs of `choose` for each parameter of the law. Each costs at most an equal share of their budget."""
HIDDEN = 0.1
"""Share of the runs, drawn at random, that cannot be bought in a replay with a seed above 0."""
TOP = 0.1
"""Share of the runs that are held out if no other table is given: the most expensive ones, and at least three."""


@dataclass(frozen=True)
class ReplayPool:
    """Runs that can be bought: ln of the sizes [k, axes], ln of the loss [k] and cost [k]; and the held-out runs."""

    x: Array
    y: Array
    cost: Array
    far_x: Array
    far_y: Array


@dataclass(frozen=True)
class Score:
    """Score of a strategy at one budget: how well the law fitted to the bought runs predicts the held-out runs."""

    way: str
    seed: int
    spent: float
    """Cost of the runs bought"""
    n_runs: int
    r2: float
    """R² of the predicted losses; negative if the mean of the held-out losses would be a better prediction"""
    error: float
    """Root mean square of ln(predicted loss / measured loss)"""
    covered: float
    """Share of the held-out losses inside their 95 % interval"""

    def plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = finite(dict(vars(self)))
        return plain


def pool_of(table: Table, law: Law, far: Table | None = None) -> ReplayPool:
    """Split a table for a replay into runs that can be bought and held-out runs.

    The held-out runs are those of `far`; without `far`, they are the most expensive tenth of `table`. Both tables have
    a column c, the cost of each run. Raises DataError for a missing column or too few runs, and ConfigError for a law
    in one variable.
    """
    if law.axes == ("x",):
        raise ConfigError(
            f"A replay needs a law in several variables, such as nd; the law {law.name} is one in a single variable."
        )
    runs = table.ends()
    for part in (runs, far) if far is not None else (runs,):
        missing = [axis for axis in (*law.axes, "c") if not part.has(axis)]
        if missing:
            raise DataError(
                f"A replay by the law {law.name} needs {', '.join(law.axes)} and the cost c of every run; missing: "
                f"{', '.join(missing)}. Map the columns with --map, or say what a run costs: --cost n,d."
            )
    if far is None:
        n_far = max(3, round(TOP * len(runs)))
        is_far = np.isin(np.arange(len(runs)), np.argsort(runs["c"], kind="stable")[-n_far:])
        runs, far = runs.take(~is_far), runs.take(is_far)
    if len(runs) <= FIRST_RUNS * law.n_parameters or len(far) < 3:
        raise DataError(
            f"{len(runs)} runs for sale and {len(far)} held out are too few for a replay by the law {law.name}, which "
            f"has {law.n_parameters} parameters: at least {FIRST_RUNS * law.n_parameters + 1} runs for sale and 3 held "
            "out are needed."
        )
    x, far_x = (np.log(np.stack([part[axis] for axis in law.axes], axis=-1)) for part in (runs, far))
    return ReplayPool(x, np.log(runs["loss"]), runs["c"], far_x, np.log(far["loss"]))


def simulate(
    pool: ReplayPool,
    law: Law,
    budget: float | None = None,
    *,
    ways: Sequence[str] = WAYS,
    seeds: int = 3,
    stops: int = 10,
) -> list[Score]:
    """Replay the runs with each strategy in `ways`, and score it at `stops` budgets evenly spaced in ln up to `budget`.

    All runs can be bought in the replay with seed 0; a random tenth of them cannot in replays with other seeds. Raises
    ConfigError if a tenth of the budget does not pay for the cheapest runs that the law can be fitted to.
    """
    everything = float(pool.cost.sum())
    budget = SHARE * everything if budget is None else min(budget, everything)
    steps = budget * np.geomspace(FIRST, 1.0, stops)
    n_least = law.n_parameters + 1
    least = float(np.sort(pool.cost)[:n_least].sum())
    if steps[0] < least:
        raise ConfigError(
            f"--budget {budget:.3g} is too small: the law {law.name} needs at least {n_least} runs, and the cheapest "
            f"{n_least} cost {least:.3g}, more than the first tenth of the budget. Give {least / FIRST:.3g} or more."
        )
    return [
        score
        for seed in range(seeds)
        for way in ways
        for score in _replay(_for_sale(pool, seed), law, steps, way, seed)
    ]


def _for_sale(pool: ReplayPool, seed: int) -> ReplayPool:
    shown = np.random.default_rng([seed, 1]).random(len(pool.y)) >= (HIDDEN if seed else 0.0)
    return replace(pool, x=pool.x[shown], y=pool.y[shown], cost=pool.cost[shown])


def _replay(pool: ReplayPool, law: Law, steps: Array, way: str, seed: int) -> list[Score]:
    rng = np.random.default_rng(seed)
    bought, scores = np.zeros(0, dtype=np.int64), list[Score]()
    belief: Belief | None = None
    for step in steps:
        left = float(step - pool.cost[bought].sum())
        bought = np.concatenate([bought, _next(pool, law, belief, bought, left, way, rng)])
        belief = believe(law, pool.x[bought], pool.y[bought], pool.cost[bought])
        scores.append(_scored(pool, belief, bought, way, seed))
    return scores


def _next(
    pool: ReplayPool,
    law: Law,
    belief: Belief | None,
    bought: NDArray[np.int64],
    left: float,
    way: str,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Choose the runs that a strategy buys next, which together cost at most `left`."""
    free = np.setdiff1d(np.arange(len(pool.y)), bought)
    if way == "choose" and belief is not None:
        here, there = belief.deviations(pool.x[free]), belief.deviations(pool.far_x)
        found = choose(here, there, belief.noise, pool.cost[free], count=len(free), budget=left)
        return free[[choice.index for choice in found]]
    if way == "choose":
        return first_runs(pool.x, pool.cost, left, law)
    if way == "grid":
        return spread_out(pool.x, pool.cost, bought, left)
    order = rng.permutation(free) if way == "random" else free[np.argsort(pool.cost[free], kind="stable")]
    chosen = []
    for k in order:
        if pool.cost[k] <= left:
            chosen.append(k)
            left -= pool.cost[k]
    return np.array(chosen, dtype=np.int64)


def first_runs(x: Array, cost: Array, budget: float, law: Law) -> NDArray[np.int64]:
    """Choose runs to begin with: far apart in size, `FIRST_RUNS` per parameter, each for an equal share of `budget`.

    None costs more than this share. If there are too few such runs for the law, the cheapest runs are taken, one more
    than the law has parameters.
    """
    count = FIRST_RUNS * law.n_parameters
    spread = spread_out(x, cost, np.zeros(0, dtype=np.int64), budget, dearest=budget / count)[:count]
    return spread if len(spread) > law.n_parameters else np.argsort(cost, kind="stable")[: law.n_parameters + 1]


def spread_out(
    x: Array, cost: Array, taken: NDArray[np.int64], budget: float, dearest: float = np.inf
) -> NDArray[np.int64]:
    """Choose runs that lie far apart in ln x: each is the run furthest from the runs in `taken` and all chosen runs.

    If `taken` is empty, the first chosen run is the cheapest. Together, the chosen runs cost at most `budget`; none of
    them costs more than `dearest`.
    """
    place = x / np.maximum(np.ptp(x, axis=0), 1e-12)
    near = np.full(len(x), np.inf)
    for k in taken:
        near = np.minimum(near, ((place - place[k]) ** 2).sum(axis=1))
    chosen, free = list[int](), np.setdiff1d(np.flatnonzero(cost <= dearest), taken)
    while len(free := free[cost[free] <= budget]):
        k = int(free[np.argmin(cost[free])] if np.isinf(near).all() else free[np.argmax(near[free])])
        chosen.append(k)
        near = np.minimum(near, ((place - place[k]) ** 2).sum(axis=1))
        free, budget = free[free != k], budget - float(cost[k])
    return np.array(chosen, dtype=np.int64)


def _scored(pool: ReplayPool, belief: Belief, bought: NDArray[np.int64], way: str, seed: int) -> Score:
    predicted, (low, high) = belief.mean(pool.far_x), belief.interval(pool.far_x)
    found, guess = np.exp(pool.far_y), np.exp(predicted)
    r2 = 1.0 - float(((found - guess) ** 2).sum() / ((found - found.mean()) ** 2).sum())
    error = float(np.sqrt(((predicted - pool.far_y) ** 2).mean()))
    covered = float(((low <= pool.far_y) & (pool.far_y <= high)).mean())
    return Score(way, seed, float(pool.cost[bought].sum()), len(bought), r2, error, covered)
