"""Propose next runs: those that reduce the uncertainty of the target prediction most for their cost.

Over the bootstrap samples, the prediction at the target and that at a candidate vary together: see `choose`.
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
"""Variance of ln L below which only rounding is left, as on a table that a formula wrote"""
LEAST = 0.05
"""Share of the cost of the largest run that any run costs in time and trouble."""


@dataclass(frozen=True)
class Proposal:
    """A proposed run."""

    n: float
    d: float
    flops: float
    gain: float
    """Share of the prediction's variance that the run removes"""


def propose(fit: Fit, cost: CostLaw, target: tuple[float, float] | None, count: int = 3) -> list[Proposal]:
    """The best `count` runs, all different, that cost at most twice the largest; `target` (N, D) is to be predicted.

    None if the target is known exactly.
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
    """(n, d) of runs that could be trained: sizes and data of the runs, between them, and up to three times beyond."""
    axes = [np.geomspace(ranges[axis][0] / 2, 3 * ranges[axis][1], 16) for axis in ("n", "d")]
    n, d = np.meshgrid(*axes, indexing="ij")
    return n.ravel(), d.ravel()


def _predictions(fit: Fit, n: Array, d: Array) -> Array:
    """ln L of every sample at every place [b, k], about its mean, over root b: squares sum to the variance.

    Far-off samples are drawn in to the 1 % quantiles.
    """
    assert isinstance(fit.spread, Draws)
    values = fit.law.value(fit.spread.draws, np.log(np.stack([n, d], axis=-1)) - fit.frame.x)
    values = np.clip(values, *np.quantile(values, [0.01, 0.99], axis=0))
    return np.asarray((values - values.mean(axis=0)) / np.sqrt(len(values)))
