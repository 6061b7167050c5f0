"""Replay a table: buy its runs one by one, and measure how well the most expensive ones are predicted at each cost.

Four strategies spend the same budget on the same runs and fit the same law: `choose` takes the runs that reduce the
uncertainty in the held-out region most for their cost, `random` any runs, `grid` runs spread over the sizes, `cost` the
cheapest runs.
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
"""Default budget, as a share of what all runs cost."""
FIRST = 0.1
"""Cost at the first stop, where strategies are scored for the first time, as a share of the budget.

Up to this cost, the runs of `choose` are spread out, since no law can be fitted yet.
"""
FIRST_RUNS = 3
"""Number of first runs of `choose` per parameter of the law; none costs more than an equal share of the first stop."""
HIDDEN = 0.1
"""Share of the runs, drawn at random, that are not for sale in a replay with a seed above 0."""
TOP = 0.1
"""Share of the runs, the most expensive and at least three, that are held out if no other table is given."""


@dataclass(frozen=True)
class ReplayPool:
    """Runs for sale and held-out runs: ln of the sizes [k, axes], ln of the loss [k], cost [k]."""

    x: Array
    y: Array
    cost: Array
    far_x: Array
    far_y: Array


@dataclass(frozen=True)
class Score:
    """Score of a strategy at one budget: how well the law of the bought runs predicts the held-out ones."""

    way: str
    seed: int
    spent: float
    """Cost of the runs bought"""
    n_runs: int
    r2: float
    """R² of the loss; negative if the mean of the held-out losses would be a better prediction"""
    error: float
    """Root mean square of ln (predicted / found)"""
    covered: float
    """Share of the held-out losses inside their 95 % interval"""

    def plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = finite(dict(vars(self)))
        return plain


def pool_of(table: Table, law: Law, far: Table | None = None) -> ReplayPool:
    """Runs of `table` for sale; the held-out runs are those of `far`, or else the most expensive tenth of `table`.

    Both tables have a column c, the cost. Raises DataError for a missing column or too few runs, ConfigError for a law
    in one variable.
    """
    if law.axes == ("x",):
        raise ConfigError(f"A replay takes a law of several variables, such as nd; {law.name} has one.")
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
            f"has {law.n_parameters} parameters: at least {FIRST_RUNS * law.n_parameters + 1} and 3 are needed."
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
    """Scores of each strategy (`ways`) at `stops` budgets up to `budget`, evenly spaced in logarithms.

    The replay with seed 0 offers all runs; replays with other seeds hide a tenth of them. Raises ConfigError for a
    budget that buys too little.
    """
    everything = float(pool.cost.sum())
    budget = SHARE * everything if budget is None else min(budget, everything)
    steps = budget * np.geomspace(FIRST, 1.0, stops)
    n_least = law.n_parameters + 1
    least = float(np.sort(pool.cost)[:n_least].sum())
    if steps[0] < least:
        raise ConfigError(
            f"--budget {budget:.3g}: its first tenth does not buy the {n_least} cheapest runs, which cost {least:.3g} "
            f"and are the fewest that the law {law.name} can be fitted to. Give {least / FIRST:.3g} or more."
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
    """Choose the runs to buy next, for at most `left`."""
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
    """First runs: far apart, at most `FIRST_RUNS` per parameter, none dearer than an equal share of `budget`.

    If these are too few for the law, the cheapest runs instead: one more than the law has parameters.
    """
    count = FIRST_RUNS * law.n_parameters
    spread = spread_out(x, cost, np.zeros(0, dtype=np.int64), budget, dearest=budget / count)[:count]
    return spread if len(spread) > law.n_parameters else np.argsort(cost, kind="stable")[: law.n_parameters + 1]


def spread_out(
    x: Array, cost: Array, taken: NDArray[np.int64], budget: float, dearest: float = np.inf
) -> NDArray[np.int64]:
    """Choose runs that lie far apart in ln x: one by one, the run furthest from those in `taken` and those chosen.

    The first is the cheapest if `taken` is empty.
    Together they cost at most `budget`, and none costs more than `dearest`.
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
