"""Choose the next runs: at each step, take the run that reduces the uncertainty of a number most for its cost.

The number, called the purpose, is anything that the law gives: an exponent, the loss at a size, the ratio of two costs.
Its uncertainty, and that of the loss of each candidate run, is given by deviations from the mean: samples of a
bootstrap, or columns of a square root of a covariance. A run with noise σ² reduces the variance of the purpose by cov²
/ (σ² + var), where var is the variance of the run's loss and cov its covariance with the purpose (Bayesian optimal
design, Chaloner & Verdinelli 1995). After each choice, the deviations are updated to those that remain once the loss of
the chosen run is known (the square-root filter of Whitaker & Hamill 2002).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from matscale.core.scaling.law import Array


@dataclass(frozen=True)
class Choice:
    """Candidate run that was chosen, with the share of the variance that it removes."""

    index: int
    gain: float
    """Share of the initial variance of the purpose that this run removes"""
    left: float
    """Share of the initial variance that is left after this choice and all earlier ones"""


def choose(
    here: Array,
    there: Array,
    noise: float | Array,
    cost: Array,
    *,
    count: int,
    budget: float = np.inf,
    least: float = 0.0,
    enough: float = 0.0,
) -> list[Choice]:
    """Choose up to `count` candidate runs, best first, that together cost at most `budget`.

    `here` [r, k] has r deviations of ln L for each of k candidates; the sum of their squares is the variance of ln L.
    `there` has r deviations of the purpose: [r] for one number, [r, m] for m numbers whose variances are added. `noise`
    is the variance of ln L between runs of one size. Each step takes the candidate that removes most variance of the
    purpose per square root of its cost (divided by the cost itself, only tiny runs would be chosen). `least` is added
    to each cost. The choice ends when the share of the variance that is left falls below `enough`.

    >>> here, there = np.array([[1.0, 0.1, 1.0], [0.0, 1.0, 0.0]]), np.array([1.0, 0.0])
    >>> [c.index for c in choose(here, there, 0.1, np.array([4.0, 1.0, 1.0]), count=2)]
    [2, 0]
    """
    aim = there.reshape(len(there), -1)
    whole, noise = max(float((aim**2).sum()), 1e-300), np.broadcast_to(noise, cost.shape)
    free, chosen, price = np.ones(len(cost), dtype=bool), list[Choice](), np.sqrt(cost + least)
    while len(chosen) < count and (possible := free & (cost <= budget)).any():
        total = noise + (here**2).sum(axis=0)
        gain = ((here.T @ aim) ** 2).sum(axis=1) / total
        k = int(np.argmax(np.where(possible, gain / price, -np.inf)))
        known = here[:, k] / (total[k] + np.sqrt(noise[k] * total[k]))
        aim, here = aim - np.outer(known, here[:, k] @ aim), here - np.outer(known, here[:, k] @ here)
        free[k], budget = False, budget - float(cost[k])
        chosen.append(Choice(k, float(gain[k]) / whole, float((aim**2).sum()) / whole))
        if chosen[-1].left < enough:
            break
    return chosen
