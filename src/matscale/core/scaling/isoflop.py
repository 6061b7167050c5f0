"""IsoFLOP analysis: the model size with the least loss at each compute budget, and how this size grows with the budget.

The minimum is that of Akima's interpolation of ln loss over ln N. A parabola through the same points is biased even
without noise if the grid is wide or off centre (arXiv:2603.22339). If the minimum lies at the edge of the sizes that
were tried, the budget is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator

from matscale.core.errors import DataError
from matscale.core.scaling.law import Array, Law
from matscale.core.scaling.means import Means, not_held
from matscale.core.scaling.one_variable import fit_means
from matscale.core.scaling.result import Fit, lowest_bar
from matscale.core.scaling.tables.labels import refuse_confounded
from matscale.core.scaling.tables.seen import seen_note
from matscale.core.scaling.tables.table import Table, groups
from matscale.core.scaling.verdict import Reason, learning, verdict

BUDGET = 0.1
"""Largest relative difference in compute between runs that share a budget."""
LEAST = 4
"""Least number of sizes at one budget."""


@dataclass(frozen=True)
class BudgetOptimum:
    """Model size with the least loss at one compute budget."""

    c: float
    n: float
    loss: float
    n_sizes: int
    at_edge: bool
    """Whether the best size is the smallest or the largest that was tried; the optimum may then lie beyond"""


def optima(table: Table) -> list[BudgetOptimum]:
    """Find the best model size at each compute budget that has runs of at least four sizes, by ascending budget.

    Raises DataError if there is no such budget.
    """
    if not table.has("n", "c"):
        raise DataError("IsoFLOP sets need n (parameters) and c (FLOPs) for every row. Map the columns with --map.")
    budget = groups(table["c"], BUDGET)
    found = []
    for b in range(int(budget.max()) + 1):
        at = table.take(budget == b)
        n, loss = _means(at)
        if len(n) >= LEAST:
            found.append(_optimum(float(np.exp(np.log(at["c"]).mean())), n, loss))
    if not found:
        raise DataError(
            f"No compute budget has runs of {LEAST} or more sizes (runs whose compute c agrees within 10 % share a "
            "budget). Sweep a grid of budgets and sizes, or use --law frontier."
        )
    return found


def _means(table: Table) -> tuple[Array, Array]:
    """ln N of each size, and the mean ln loss of the runs of each size."""
    size: NDArray[np.int64] = groups(table["n"])
    counts = np.bincount(size)
    return np.bincount(size, np.log(table["n"])) / counts, np.bincount(size, np.log(table["loss"])) / counts


def _optimum(c: float, n: Array, loss: Array) -> BudgetOptimum:
    fine = np.linspace(n[0], n[-1], 2001)
    curve = Akima1DInterpolator(n, loss)(fine)
    k = int(np.argmin(curve))
    at_edge = int(np.argmin(loss)) in (0, len(n) - 1) or k in (0, len(fine) - 1)
    return BudgetOptimum(c, float(np.exp(fine[k])), float(np.exp(curve[k])), len(n), at_edge)


def fit_isoflop(table: Table, laws: Sequence[Law], target: str = "loss") -> Fit:
    """Fit the growth of the best model size with compute, N_opt = A C^-alpha, to the budgets of a table.

    A budget is used if its best size is neither the smallest nor the largest that was tried. alpha is negative where
    N_opt grows with C.
    """
    bar = lowest_bar(table, target)
    runs = table.ends()
    judged = learning(runs["loss"], bar)
    if bar is not None and not judged:
        runs = runs.keep(runs["loss"] < bar[1], f"does not beat the baseline {bar[0]} ({bar[1]:.4g})")
    refuse_confounded(runs)
    found = optima(runs)
    inside = [o for o in found if not o.at_edge]
    edges = [o for o in found if o.at_edge]
    notes = [f"budget {o.c:.3g} is dropped: its optimum lies at the edge of the {o.n_sizes} sizes tried" for o in edges]
    if len(inside) < 3:
        raise DataError(
            f"{len(inside)} of {len(found)} budgets have their optimum inside the sizes tried; a law of the best size "
            "needs 3 or more. At the other budgets, train sizes beyond the smallest or largest."
        )
    x = np.log([[o.c] for o in inside])
    y = np.log([o.n for o in inside])
    counts, size = np.array([o.n_sizes for o in inside]), np.zeros(len(runs), np.int64)
    means = Means("c", x, y, counts, runs, size, falls=False)
    fit = fit_means(means, [law for law in laws if law.floor is None][:1], target)
    reasons = [*judged, *fit.reasons]
    if edges:
        reasons.append(Reason("h", f"{len(edges)} of {len(found)} budgets have their optimum at the edge"))
    return replace(
        fit,
        points="isoflop",
        reasons=tuple(reasons),
        notes=(*notes, *not_held(runs, ("n", "c")), *filter(None, [seen_note(runs)])),
        verdict=verdict(fit.law, reasons, fit.intervals),
    )
