"""Best learning rate and batch size for one model size and amount of data, from the losses of trials.

ln loss near its minimum is a parabola in ln(rate), or a quadratic form in ln(rate) and ln(batch): larger batches need
larger rates, so both have to be found together. In the fit, the weight of a loss falls to 0 at a factor of `REACH` from
the minimum (Cleveland's tricube). The fit is repeated around the new minimum until the minimum no longer moves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from matscale.core.scaling.law import Array
from matscale.core.scaling.tables.table import groups

REACH = 8.0
"""Factor between a tried value and the best value above which its loss has no weight."""
ROUNDS = 8
"""Largest number of fits, each centred on the minimum of the fit before."""


@dataclass(frozen=True)
class Trial:
    """Learning rate and batch size that were tried for one size, with the mean loss over seeds."""

    n: float
    d: float
    """Structures seen, or tokens; NaN if unknown"""
    lr: float
    batch: float
    """Structures in a batch; NaN if unknown"""
    loss: float
    """Loss; infinite if the run diverged"""


@dataclass(frozen=True)
class Optimum:
    """Best learning rate and batch size that were found for one model size and amount of data."""

    n: float
    d: float
    lr: float
    batch: float
    """Best batch size; NaN if only one was tried"""
    at_edge: tuple[str, ...] = ()
    """Hyperparameters (`learning rate`, `batch`) whose best value is an end of the values tried, or may lie beyond"""

    @property
    def place(self) -> str:
        return f"n = {self.n:,.4g}" if math.isnan(self.d) else f"n = {self.n:,.4g}, d = {self.d:,.4g}"


def optima(trials: Sequence[Trial]) -> list[Optimum]:
    """Find the best learning rate and batch size for each n and d with a finite loss, in ascending order of n and d."""
    n = groups(np.array([trial.n for trial in trials])).tolist()
    d = groups(np.array([1.0 if math.isnan(trial.d) else trial.d for trial in trials])).tolist()
    cells: dict[tuple[int, int], list[Trial]] = {}
    for *place, trial in zip(n, d, trials):
        cells.setdefault((place[0], place[1]), []).append(trial)
    members = [cells[place] for place in sorted(cells)]
    return [optimum(those) for those in members if any(math.isfinite(trial.loss) for trial in those)]


def optimum(trials: Sequence[Trial]) -> Optimum:
    """Find the best learning rate and batch size from trials that all have the same n and d."""
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
    # A best rate below rates that diverged is bracketed: the edges are those of all trials, the diverged ones included.
    low, high = tried.min(axis=0), tried.max(axis=0)
    at_edge = [names[j] for j in moved if found is None or not low[j] < centre[j] < high[j]]
    lr, batch = (float(np.exp(centre[j])) if j in moved else math.nan for j in (0, 1))
    return Optimum(best.n, best.d, lr, batch, tuple(at_edge))


def _minimum(dials: Array, losses: Array, centre: Array) -> Array | None:
    """Minimum of a quadratic form fitted to ln losses [k] over ln of hyperparameters [k, 1 or 2].

    None if the form has no minimum.
    """
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
        # The minimum of a nearly flat form may lie far away, so the step is limited to the window.
        step *= min(1.0, math.log(REACH) / max(float(np.linalg.norm(step)), 1e-12))
        centre = centre + step
        if np.linalg.norm(step) < 1e-6:
            break
    return centre
