"""Choose runs one after the other: those that take most off the uncertainty of a purpose, for their cost.

A purpose is any number that the law gives: an exponent, the loss at a size, the ratio of two costs. What is known of
it, and of the loss of a run that could be trained, is a set of deviations from the mean, row by row: samples of a
bootstrap, or the columns of a root of a covariance. A run at a candidate, with noise σ², takes cov² / (σ² + var) off
the variance of the purpose: one step of Bayesian optimal design (Chaloner & Verdinelli 1995). After each choice all
deviations are those that remain once the run is known (the square-root filter of Whitaker & Hamill 2002).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from matscale.core.scaling.law import Array


@dataclass(frozen=True)
class Choice:
    """A chosen candidate."""

    index: int
    gain: float
    """Share of the first variance of the purpose that it takes away"""
    left: float
    """Share of it that is left after this choice and those before it"""


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
    """At most `count` candidates that together cost at most `budget`, best first.

    `here` [r, k] are the deviations of ln L at each of k candidates, `there` [r] or [r, m] those of the purpose (of m
    numbers, their variances summed): sums of squares over the rows are variances. `noise` is the variance of one run.
    The candidate that removes most variance per root of its cost comes first, which lies between "at any price" and
    "per FLOP" (that would only ever ask for tiny runs); `least` is added to each cost. A share of the variance below
    `enough` ends the choice.

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
