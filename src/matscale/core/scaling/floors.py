"""Test whether a plain power law could be the local slope of a law with a floor.

If a law has a floor, its slope in ln x falls with size, so that a power law fitted to few sizes has too small an
exponent. Only curvature distinguishes the two forms. A plain power law is therefore accepted only if the points exclude
a floor of `MOST` of the smallest loss, by an exact t-test.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from matscale.core.scaling.intervals import Spread
from matscale.core.scaling.law import Array
from matscale.core.scaling.means import Means
from matscale.core.scaling.verdict import Reason

MOST = 0.4
"""Largest floor, as a share of the loss at the largest size, that may remain possible for a plain power law.

Such a floor lowers the slope at the largest size by 40 %.
"""
CHANCE = 0.05
"""Level of the test: probability that a law with such a floor passes for a plain power law."""


def floor_reasons(spread: Spread, means: Means) -> list[Reason]:
    """Reason against a plain power law of a loss, if the points do not exclude a floor (trigger i of the verdict)."""
    law = spread.law
    if law.floor is not None or law.verdict != "law" or law.n_parameters != 2 or not means.falls:
        return []
    root = None if spread.weights is None else np.diag(np.sqrt(spread.weights))
    points = f"{len(means)} {'points' if means.axis == 'c' else 'sizes'}"
    return not_excluded(floor_chance(means.x[:, 0], means.y, root), points)


def not_excluded(p: float, points: str) -> list[Reason]:
    """Reason against a plain power law, if points do not exclude a floor (trigger i of the verdict).

    `p` is the p-value of the hypothesis that there is a floor; a floor is not excluded if `p` is at least `CHANCE`.
    `points` is the number of points as text.
    """
    if p < CHANCE:
        return []
    text = (
        f"the slope is that of this range: {points} do not exclude a floor of {MOST:.0%} of the smallest loss "
        f"(p = {p:.2g}); with it, the exponent would be larger"
    )
    return [Reason("i", text)]


def floor_chance(x: Array, y: Array, root: Array | None = None, share: float = MOST) -> float:
    """p-value of a floor that is the given `share` of the loss at the largest size; a small value excludes the floor.

    The law L = L_1 (share + (1 - share) (x / x_1)^-alpha) is fitted in ln L_1 and alpha. The t statistic is one
    Gauss-Newton step in the share, divided by its standard error from the residuals. `root` [k, k] is the square root
    of the inverse covariance of the k points, up to a factor; None: all points have the same variance.
    """
    freedom = len(y) - 3
    if freedom < 1:
        return 1.0
    root = np.eye(len(y)) if root is None else root
    below = x - x.max()
    top, alpha = float(y[-1]), float(-np.polyfit(x, y, 1)[0]) / (1 - share / 2)
    for _ in range(30):
        falling = (1 - share) * np.exp(np.clip(-alpha * below, -50, 50))
        residual = root @ (y - top - np.log(share + falling))
        columns = root @ np.column_stack([np.ones_like(x), -below * falling / (share + falling)])
        step = np.linalg.lstsq(columns, residual, rcond=1e-12)[0]
        top, alpha = top + step[0], alpha + float(np.clip(step[1], -1, 1))
        if abs(step[1]) < 1e-10:
            break
    falling = np.exp(np.clip(-alpha * below, -50, 50))
    total = share + (1 - share) * falling
    residual = root @ (y - top - np.log(total))
    more = root @ ((1 - falling) / total)
    columns = root @ np.column_stack([np.ones_like(x), -below * (1 - share) * falling / total])
    more = more - columns @ np.linalg.lstsq(columns, more, rcond=1e-12)[0]
    step, squares = float(more @ residual), float(more @ more)
    left = residual - columns @ np.linalg.lstsq(columns, residual, rcond=1e-12)[0]
    spare = float(left @ left) - step**2 / max(squares, 1e-300)
    if squares <= 1e-20:
        return 1.0  # a loss that does not fall
    return float(stats.t.cdf(step / np.sqrt(max(spare, 1e-300) / freedom * squares), freedom))
