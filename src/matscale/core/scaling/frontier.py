"""Compute frontier: the best loss of all runs for each amount of compute.

A minimum over raw checkpoints is biased low by noise, and its points depend on each other. Therefore the first part of
each run's curve (warm-up) is left out, and the rest is smoothed by a running median and made monotonic. The frontier is
the lower convex hull of all curves in logarithms, with one point per run that touches it. A bootstrap over runs gives
the uncertainty of the frontier.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from matscale.core.errors import DataError
from matscale.core.scaling.intervals import LEVEL, quantile
from matscale.core.scaling.law import Array, Law
from matscale.core.scaling.means import Means, not_held, size_means
from matscale.core.scaling.one_variable import fit_means
from matscale.core.scaling.result import Fit, lowest_bar
from matscale.core.scaling.solve import solve
from matscale.core.scaling.tables.table import Table
from matscale.core.scaling.text import counted, percent, size
from matscale.core.scaling.verdict import Reason, flat, learning, verdict

SKIPPED = 0.1
"""Share of a run's compute that is left out at the beginning of its curve."""
WIDEST = 2.0
"""Largest accepted ratio between the ends of an exponent's interval, for a law of the frontier."""
NEAR = 0.1
"""Largest relative error of a held-out point that is accepted for a law of the frontier."""


@dataclass(frozen=True)
class SmoothedCurve:
    """Smoothed training curve of one run: ln of the loss over ln of the compute."""

    rows: Array
    """Indices of the run's rows in the table, by ascending compute"""
    c: Array
    """ln of compute"""
    loss: Array
    """ln of the smoothed loss; it never rises"""


def curves(table: Table) -> list[SmoothedCurve]:
    """Smooth the training curve of each run. Raises DataError for a table without compute."""
    if not table.has("c"):
        raise DataError("The compute frontier needs c (FLOPs) for every row. Map a column with --map c=COLUMN.")
    of_run: dict[str, list[int]] = {}
    for k, name in enumerate(table.runs.tolist()):
        of_run.setdefault(name, []).append(k)
    found = []
    for members in of_run.values():
        rows = np.array(members)
        rows = rows[np.argsort(table["c"][rows], kind="stable")]
        rows = rows[table["c"][rows] >= SKIPPED * table["c"][rows[-1]]]
        loss = np.log(table["loss"][rows])
        found.append(SmoothedCurve(rows, np.log(table["c"][rows]), np.minimum.accumulate(_median5(loss))))
    return found


def _median5(values: Array) -> Array:
    """Running median over five values; the first and the last value are repeated beyond the ends."""
    if len(values) < 5:
        return values
    padded = np.concatenate([values[:1], values[:1], values, values[-1:], values[-1:]])
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1))


def hull(c: Array, loss: Array) -> Array:
    """Indices of the points on the lower convex hull, from the cheapest point to the best (Andrew's monotone chain).

    >>> c, loss = np.log([1.0, 2.0, 4.0, 8.0]), np.array([3.0, 2.9, 2.0, 2.5])
    >>> hull(c, loss).tolist()
    [0, 2]
    """
    order = np.lexsort((loss, c))
    best = np.minimum.accumulate(loss[order])
    chain: list[int] = []
    for k in order[np.append(True, loss[order][1:] < best[:-1])]:  # others are never on the hull
        while len(chain) > 1 and _turns_up(c, loss, chain[-2], chain[-1], k):
            chain.pop()
        chain.append(int(k))
    return np.array(chain)


def _turns_up(c: Array, loss: Array, a: int, b: int, k: int) -> bool:
    """Whether point b lies on or above the line from point a to point k, and so is not on the lower hull."""
    return bool((c[b] - c[a]) * (loss[k] - loss[a]) <= (loss[b] - loss[a]) * (c[k] - c[a]))


def touching(found: list[SmoothedCurve]) -> tuple[Array, Array, Array]:
    """Points of the compute frontier, one for each run that touches it, by ascending compute.

    Returns the index of each run's curve, and ln c and ln loss of its point: the mean of its points on the hull.
    """
    which = np.concatenate([np.full(len(curve.c), k) for k, curve in enumerate(found)])
    c, loss = np.concatenate([f.c for f in found]), np.concatenate([f.loss for f in found])
    at = hull(c, loss)
    names = np.unique(which[at])
    x = np.array([c[at][which[at] == k].mean() for k in names])
    y = np.array([loss[at][which[at] == k].mean() for k in names])
    order = np.argsort(x)
    return names[order], x[order], y[order]


def corners(curve: SmoothedCurve) -> SmoothedCurve:
    """Keep the points of a curve that lie on its own lower convex hull; no others can lie on the hull of all curves."""
    at = hull(curve.c, curve.loss)
    return SmoothedCurve(curve.rows[at], curve.c[at], curve.loss[at])


def fit_frontier(table: Table, laws: list[Law], target: str = "loss", *, samples: int = 1000, seed: int = 0) -> Fit:
    """Fit a law of compute to the compute frontier of all runs.

    The interval of the exponent contains both the interval from Student's t and that from a bootstrap over runs.
    """
    found = curves(table)
    bar = lowest_bar(table, target)
    reasons = learning(np.exp(size_means(table.ends(), "c").y), bar)
    if bar is not None and not any(reason.is_no_learning for reason in reasons):
        table = table.keep(table["loss"] < bar[1], f"does not beat the baseline {bar[0]} ({bar[1]:.4g})")
        found = curves(table)
    reduced = [corners(curve) for curve in found]
    names, x, y = touching(reduced)
    if len(names) < 3:
        raise DataError(
            f"Only {counted(len(names), 'run')} of {len(found)} lie on the compute frontier; a law needs 4 runs on it, "
            "over a decade of compute. Train smaller models for less compute and larger ones for more."
        )
    rows = np.concatenate([found[k].rows for k in names])
    mask = np.zeros(len(table), dtype=bool)
    mask[rows] = True
    part = table.keep_runs(mask, "is not on the compute frontier")
    means = Means("c", x[:, None], y, np.ones(len(x), dtype=np.int64), part.ends(), np.arange(len(x)))
    fit = fit_means(means, laws, target, reasons)
    fit = replace(fit, notes=(*fit.notes, *not_held(table.ends(), fit.axes)))
    exponents = _resampled(reduced, fit.law, samples, seed)
    return _with_bootstrap(fit, exponents, len(found))


def _resampled(found: list[SmoothedCurve], law: Law, samples: int, seed: int) -> Array:
    """Exponents of the laws that are fitted to the frontiers of bootstrap samples of the runs."""
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(min(samples, 300)):
        drawn = [found[k] for k in np.unique(rng.integers(0, len(found), len(found)))]
        _, x, y = touching(drawn)
        if len(x) > law.n_parameters:
            solution = solve(law, x[:, None], y)
            values.append(float(law.plain(solution.theta, solution.frame)[law.exponents[0]]))
    return np.array(values)


def _with_bootstrap(fit: Fit, exponents: Array, n_runs: int) -> Fit:
    name = fit.law.exponents[0]
    intervals, reasons = dict(fit.intervals), [reason for reason in fit.reasons if reason.trigger != "f"]
    reasons += not_predicted(fit)
    notes = [note for note in fit.notes if not note.startswith("one run per size")]
    notes.append(
        f"{len(fit.x)} of {n_runs} runs touch the frontier; intervals include a bootstrap over runs if possible"
    )
    if len(exponents) >= 50:
        factor = quantile(LEVEL, max(len(fit.x) - 2, 1)) / stats.norm.ppf(0.5 + LEVEL / 2)
        value = fit.parameters[name]
        low, high = value + (np.quantile(exponents, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2]) - value) * factor
        intervals[name] = (min(intervals[name][0], float(low)), max(intervals[name][1], float(high)))
        if not any(reason.trigger == "c" for reason in reasons):
            reasons += flat(name, value, *intervals[name]) or too_wide(name, *intervals[name])
    else:
        reasons.append(Reason("b", "too few runs touch the frontier for a bootstrap over runs"))
    return replace(
        fit,
        points="frontier",
        intervals=intervals,
        reasons=tuple(reasons),
        notes=tuple(notes),
        verdict=verdict(fit.law, reasons, intervals),
    )


def too_wide(name: str, low: float, high: float) -> list[Reason]:
    """Reason against a law of the frontier whose exponent has too wide an interval (trigger c of the verdict).

    It is too wide if its ends differ by more than a factor of `WIDEST`.
    """
    least, most = sorted((abs(low), abs(high)))
    if least * WIDEST >= most:
        return []
    text = f"the interval of {name} spans a factor of {most / least:.1f}; a law of the frontier needs less than "
    return [Reason("c", f"{text}{WIDEST:g}")]


def not_predicted(fit: Fit) -> list[Reason]:
    """Reason against a law of the frontier, if it predicts a held-out point badly (trigger f of the verdict).

    A prediction is bad if the point lies outside its 95 % interval, or is off by more than `NEAR`. The second limit is
    needed because a frontier has few points, so that the interval is often wide enough for any value.
    """
    missed = [one for one in fit.held_out if not one.covered or abs(one.error) > NEAR]
    if not missed:
        return []
    told = ", ".join(
        f"{percent(one.error)} at c = {size(one.at[fit.axes[0]])}{'' if one.covered else ', outside its interval'}"
        for one in missed
    )
    text = f"predictions from the cheaper runs miss: {told}; errors must be below {NEAR:.0%} and inside the interval"
    return [Reason("f", text, widening=max(one.widening for one in missed))]
