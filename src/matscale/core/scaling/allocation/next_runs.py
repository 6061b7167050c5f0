"""Propose next runs: those that reduce the uncertainty of the target prediction most for their cost.

`choose` uses the correlation, over bootstrap samples, of the prediction at the target with that at each candidate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matscale.core.scaling.allocation.choose import choose
from matscale.core.scaling.bootstrap import Draws
from matscale.core.scaling.law import Array

if TYPE_CHECKING:
    from matscale.core.scaling.allocation.cost_law import CostLaw
    from matscale.core.scaling.result import Fit

EXACT = 1e-16
"""Variance of ln L below which only rounding errors are left, as for a table computed from a formula"""
LEAST = 0.05
"""Fixed cost of any run, as a share of the cost of the largest run."""


@dataclass(frozen=True)
class Proposal:
    """Proposed run."""

    n: float
    d: float
    flops: float
    gain: float
    """Share of the prediction's variance that the run removes"""


def propose(fit: Fit, cost: CostLaw, target: tuple[float, float] | None, count: int = 3) -> list[Proposal]:
    """Propose the best `count` runs for predicting the loss at `target`; empty if that is known exactly.

    `target` is (N, D); None: 3 times the largest N and D of the runs. A run may cost at most twice the largest so far.
    """
    assert isinstance(fit.spread, Draws)
    n, d = candidates(fit.range)
    flops = cost.flops(n, d)
    cheap = flops <= 2 * cost.largest
    n, d, flops = n[cheap], d[cheap], flops[cheap]
    aim = target or (3 * fit.range["n"][1], 3 * fit.range["d"][1])
    here = _predictions(fit, n, d)
    there = _predictions(fit, np.array([aim[0]]), np.array([aim[1]]))
    noise = fit.spread.noise.between + fit.spread.noise.within
    if float((there**2).sum()) < EXACT:
        return []
    chosen = choose(here, there, noise + EXACT, flops, count=count, least=LEAST * cost.largest)
    return [Proposal(float(n[c.index]), float(d[c.index]), float(flops[c.index]), c.gain) for c in chosen]


def candidates(ranges: Mapping[str, tuple[float, float]]) -> tuple[Array, Array]:
    """Candidates (n, d) for runs: a 16 x 16 grid from half the smallest to 3 times the largest value of the runs."""
    axes = [np.geomspace(ranges[axis][0] / 2, 3 * ranges[axis][1], 16) for axis in ("n", "d")]
    n, d = np.meshgrid(*axes, indexing="ij")
    return n.ravel(), d.ravel()


def _predictions(fit: Fit, n: Array, d: Array) -> Array:
    """Deviations [b, k] of ln L of each of b bootstrap samples from their mean, at each of k sizes, divided by √b.

    The squares of a column sum to the variance of ln L. Extreme samples are clipped to the 1 % and 99 % quantiles.
    """
    assert isinstance(fit.spread, Draws)
    values = fit.law.value(fit.spread.draws, np.log(np.stack([n, d], axis=-1)) - fit.frame.x)
    values = np.clip(values, *np.quantile(values, [0.01, 0.99], axis=0))
    return np.asarray((values - values.mean(axis=0)) / np.sqrt(len(values)))
