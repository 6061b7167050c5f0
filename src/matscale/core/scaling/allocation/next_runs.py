"""Propose next runs: those that reduce the uncertainty of the target prediction most for their cost.

Over the bootstrap samples, the prediction at the target and that at a candidate vary together. A run at the candidate,
with noise σ, takes cov² / (σ² + var) off the variance of the target: one step of Bayesian optimal design (Chaloner &
Verdinelli 1995), with the samples in place of a Gaussian posterior.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matscale.core.scaling.bootstrap import Draws
from matscale.core.scaling.law import Array

if TYPE_CHECKING:
    from matscale.core.scaling.allocation.cost_law import Cost
    from matscale.core.scaling.result import Fit

EXACT = 1e-16
"""Variance of ln L below which only rounding is left, as on a table that a formula wrote"""


@dataclass(frozen=True)
class Proposal:
    """A proposed run."""

    n: float
    d: float
    flops: float
    gain: float
    """Share of the prediction's variance that the run removes"""


def propose(fit: Fit, cost: Cost, target: tuple[float, float] | None, count: int = 3) -> list[Proposal]:
    """The best `count` runs, all different, that cost at most twice the largest; `target` (N, D) is to be predicted.

    None if the target is known exactly.
    """
    assert isinstance(fit.spread, Draws)
    n, d = _candidates(fit)
    flops = cost.flops(n, d)
    cheap = flops <= 2 * cost.largest
    n, d, flops = n[cheap], d[cheap], flops[cheap]
    aim = target or (3 * fit.range["n"][1], 3 * fit.range["d"][1])
    here = _predictions(fit, n, d)
    there = _predictions(fit, np.array([aim[0]]), np.array([aim[1]]))[:, 0]
    noise = fit.spread.noise.between + fit.spread.noise.within
    whole = float(there.var())
    if whole < EXACT:
        return []
    chosen: list[Proposal] = []
    is_free = np.ones(len(n), dtype=bool)
    for _ in range(min(count, len(n))):
        together = (here * there[:, None]).mean(axis=0)
        gain = together**2 / (noise + here.var(axis=0) + EXACT) / whole
        # Gain per root of cost lies between "at any price" and "per FLOP", which would only ever ask for tiny runs.
        worth = gain / np.sqrt(flops / cost.largest + 0.05)
        k = int(np.argmax(np.where(is_free, worth, -np.inf)))
        is_free[k] = False
        chosen.append(Proposal(float(n[k]), float(d[k]), float(flops[k]), float(gain[k])))
        known = here[:, k] / (noise + here[:, k].var() + EXACT)
        there = there - known * together[k]
        here = here - np.outer(known, (here * here[:, k : k + 1]).mean(axis=0))
    return chosen


def _candidates(fit: Fit) -> tuple[Array, Array]:
    """Sizes and data of the runs, between them, and up to three times beyond."""
    axes = [np.geomspace(fit.range[axis][0] / 2, 3 * fit.range[axis][1], 16) for axis in ("n", "d")]
    n, d = np.meshgrid(*axes, indexing="ij")
    return n.ravel(), d.ravel()


def _predictions(fit: Fit, n: Array, d: Array) -> Array:
    """ln L of every sample at every place [b, k], about its mean; far-off samples are drawn in to the 1 % quantiles."""
    assert isinstance(fit.spread, Draws)
    values = fit.law.value(fit.spread.draws, np.log(np.stack([n, d], axis=-1)) - fit.frame.x)
    values = np.clip(values, *np.quantile(values, [0.01, 0.99], axis=0))
    return np.asarray(values - values.mean(axis=0))
