"""Best learning rate and batch of one size and amount of data, from the losses of the dials that were tried.

ln loss near its minimum is a parabola in ln(rate), or a quadratic form in ln(rate) and ln(batch): larger batches want
larger rates, so that the two cannot be found one by one. It is fitted with weights that fall to 0 at a factor of
`REACH` from the minimum (Cleveland's tricube), and moved there until it stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from matscale.core.scaling.law import Array
from matscale.core.scaling.tables.table import groups

REACH = 8.0
"""Factor from the best dial at which a loss no longer counts."""
ROUNDS = 8
"""Times that the window is moved to the minimum."""


@dataclass(frozen=True)
class Trial:
    """One loss, a mean over seeds."""

    n: float
    d: float
    """Structures seen, or tokens; NaN where it is not known"""
    lr: float
    batch: float
    """Structures in a batch; NaN where it is not known"""
    loss: float
    """Infinite: the run diverged"""


@dataclass(frozen=True)
class Optimum:
    """The best dials of one size and amount of data."""

    n: float
    d: float
    lr: float
    batch: float
    """NaN where one value of the dial was tried"""
    at_edge: tuple[str, ...] = ()
    """Dials whose best value is an end of what was tried, or lies beyond it: `learning rate`, `batch`"""

    @property
    def place(self) -> str:
        return f"n = {self.n:,.4g}" if math.isnan(self.d) else f"n = {self.n:,.4g}, d = {self.d:,.4g}"


def optima(trials: Sequence[Trial]) -> list[Optimum]:
    """One optimum for each n and d at which some loss is finite, ascending."""
    n = groups(np.array([trial.n for trial in trials])).tolist()
    d = groups(np.array([1.0 if math.isnan(trial.d) else trial.d for trial in trials])).tolist()
    cells: dict[tuple[int, int], list[Trial]] = {}
    for *place, trial in zip(n, d, trials):
        cells.setdefault((place[0], place[1]), []).append(trial)
    members = [cells[place] for place in sorted(cells)]
    return [optimum(those) for those in members if any(math.isfinite(trial.loss) for trial in those)]


def optimum(trials: Sequence[Trial]) -> Optimum:
    """The best dials among trials of one n and d, by a quadratic form around the least loss."""
    finite = [trial for trial in trials if math.isfinite(trial.loss)]
    best = min(finite, key=lambda trial: trial.loss)
    dials = np.log([[trial.lr, trial.batch] for trial in finite])
    tried = np.log([[trial.lr, trial.batch] for trial in trials])
    names = ("learning rate", "batch")
    moved = [j for j in (0, 1) if len(np.unique(dials[:, j][np.isfinite(dials[:, j])])) > 1]
    losses = np.log([trial.loss for trial in finite])
    centre = np.log([best.lr, best.batch])
    found = _minimum(dials[:, moved], losses, centre[moved])
    if found is not None:
        centre[moved] = found
    # A rate above which runs diverged has been bracketed: what was tried counts, whatever it gave.
    low, high = tried.min(axis=0), tried.max(axis=0)
    at_edge = [names[j] for j in moved if found is None or not low[j] < centre[j] < high[j]]
    lr, batch = (float(np.exp(centre[j])) if j in moved else math.nan for j in (0, 1))
    return Optimum(best.n, best.d, lr, batch, tuple(at_edge))


def _minimum(dials: Array, losses: Array, centre: Array) -> Array | None:
    """Where a quadratic form through `losses` [k] over `dials` [k, 1 or 2] is least; None if it has no minimum."""
    n = dials.shape[1]
    if n == 0:
        return None
    least = (n + 1) * (n + 2) // 2
    for _ in range(ROUNDS):
        off = dials - centre
        far = np.sqrt((off**2).sum(axis=1)) / math.log(REACH)
        weights = np.clip(1 - far**3, 0, None) ** 3
        if (weights > 0).sum() < least:
            return None
        pairs = [(i, j) for i in range(n) for j in range(i, n)]
        columns = np.column_stack([np.ones(len(off)), off, *(off[:, i] * off[:, j] for i, j in pairs)])
        root = np.sqrt(weights)[:, None]
        coefficients, _, rank, _ = np.linalg.lstsq(columns * root, losses * root[:, 0], rcond=1e-10)
        if rank < columns.shape[1]:
            return None
        form = np.zeros((n, n))
        for (i, j), value in zip(pairs, coefficients[1 + n :]):
            form[i, j] += value
            form[j, i] += value
        if np.linalg.eigvalsh(form)[0] <= 0:
            return None
        step = np.linalg.solve(form, -coefficients[1 : 1 + n])
        # A form that is nearly flat along one direction may throw the minimum far away: move within the window.
        step *= min(1.0, math.log(REACH) / max(float(np.linalg.norm(step)), 1e-12))
        centre = centre + step
        if np.linalg.norm(step) < 1e-6:
            break
    return centre
