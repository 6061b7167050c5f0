"""Propose runs that would make a prediction of the loss at a target size more precise, most for their cost.

`choose` selects them by the correlation, over bootstrap samples, between the loss at the target and the loss of each
candidate run.
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
    from matscale.core.scaling.tables.table import Table

EXACT = 1e-16
"""Variance of ln L below which only rounding errors are left, as in a table computed from a formula"""
LEAST = 0.05
"""Cost that is added to the cost of every candidate, as a share of the cost of the largest run."""


@dataclass(frozen=True)
class Proposal:
    """Run that is worth training, with the share of the variance that it would remove."""

    n: float
    d: float
    flops: float
    gain: float
    """Share of the variance of the predicted ln L that this run would remove"""


def propose(fit: Fit, cost: CostLaw, target: tuple[float, float] | None, count: int = 3) -> list[Proposal]:
    """Propose the best `count` runs for predicting the loss at `target`; none if this loss is known exactly.

    `target` is (N, D); None: 3 times the largest N and D of the runs. A proposed run costs at most twice as much as the
    largest run so far, and needs no more data than the dataset of the runs has.
    """
    assert isinstance(fit.spread, Draws)
    n, d = candidates(fit.range, existing(fit.table))
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


def candidates(ranges: Mapping[str, tuple[float, float]], most: float = np.inf) -> tuple[Array, Array]:
    """Candidate runs (n, d): a 16 x 16 grid, on each axis from half the smallest to 3 times the largest value.

    There are at most `most` data.
    """
    ends = {"n": 3 * ranges["n"][1], "d": min(3 * ranges["d"][1], most)}
    axes = [np.geomspace(min(ranges[axis][0] / 2, end), end, 16) for axis, end in ends.items()]
    n, d = np.meshgrid(*axes, indexing="ij")
    return n.ravel(), d.ravel()


def existing(table: Table) -> float:
    """Number of training structures that the dataset of the runs has; infinite if it is not known.

    It is known for run folders whose data d are different training structures.
    """
    known = table.facts.get("training structures") if table.names.get("d") == "unique" else None
    return float(known) if known else np.inf


def _predictions(fit: Fit, n: Array, d: Array) -> Array:
    """Deviations [b, k] of ln L at k sizes from its mean over b bootstrap samples, divided by √b.

    The squares of a column sum to the variance of ln L. Values beyond the 1 % and 99 % quantiles are set to these.
    """
    assert isinstance(fit.spread, Draws)
    values = fit.law.value(fit.spread.draws, np.log(np.stack([n, d], axis=-1)) - fit.frame.x)
    values = np.clip(values, *np.quantile(values, [0.01, 0.99], axis=0))
    return np.asarray((values - values.mean(axis=0)) / np.sqrt(len(values)))
