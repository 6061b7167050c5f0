"""Held-out test of a law: the largest sizes are predicted from the smaller ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from matscale.core.scaling.bootstrap import bootstrap
from matscale.core.scaling.intervals import spread, wide_enough
from matscale.core.scaling.law import Array, Law
from matscale.core.scaling.means import Means
from matscale.core.scaling.solve import HUBER, solve
from matscale.core.scaling.tables.table import Table, groups


@dataclass(frozen=True)
class HeldOut:
    """Size that was held out of a fit, with its predicted and its measured loss."""

    at: dict[str, float]
    """Value of each axis at this size, by the name of the axis (n, d, ...)"""
    predicted: float
    found: float
    low: float
    """Lower end of the 95 % prediction interval of the loss; `high` is the upper end"""
    high: float
    covered_80: bool
    can_fail: bool = True
    """Whether the test could fail: its interval is narrower than the range of the losses that the law was fitted to."""

    @classmethod
    def of(
        cls,
        at: Mapping[str, float],
        centre: float,
        found: float,
        ends: tuple[float, float],
        ends_80: tuple[float, float],
        span: float,
    ) -> HeldOut:
        """Make the result of a held-out test from natural logarithms of the size and of losses.

        `centre` is ln of the predicted loss, `found` ln of the measured one. `ends` and `ends_80` are the ends of the
        95 % and of the 80 % interval. `span` is the range of ln loss over the points that the law was fitted to.
        """
        return cls(
            at={axis: float(np.exp(x)) for axis, x in at.items()},
            predicted=float(np.exp(centre)),
            found=float(np.exp(found)),
            low=float(np.exp(ends[0])),
            high=float(np.exp(ends[1])),
            covered_80=bool(ends_80[0] <= found <= ends_80[1]),
            can_fail=bool(ends[1] - ends[0] < span),
        )

    @property
    def error(self) -> float:
        """Relative error of the prediction, with its sign: predicted / measured - 1."""
        return self.predicted / self.found - 1.0

    @property
    def covered(self) -> bool:
        return self.low <= self.found <= self.high

    @property
    def widening(self) -> float:
        """Factor by which the interval of ln L must grow to contain the measured loss; 1 if it contains this loss."""
        end = self.high if self.found > self.predicted else self.low
        return wide_enough(float(np.log(self.found / self.predicted)), float(np.log(end / self.predicted)))

    def plain(self) -> dict[str, object]:
        return {
            "at": self.at,
            "predicted": self.predicted,
            "found": self.found,
            "interval": [self.low, self.high],
            "relative_error": self.error,
            "covered_80": self.covered_80,
            "covered_95": self.covered,
            "can_fail": self.can_fail,
        }


def how_many(means: Means) -> int:
    """Number of the largest sizes that are held out: 1, or 2 if there are eight sizes or more.

    For a law in compute, it is the number of points in the top half-decade: at least 1, at most a third of all points.
    """
    if means.axis == "c":
        top = int((means.x[:, 0] > means.x[-1, 0] - 0.5 * np.log(10.0)).sum())
        return max(1, min(top, len(means) // 3))
    return 2 if len(means) >= 8 else 1


def hold_out(means: Means, law: Law, level: float = 0.95) -> list[HeldOut]:
    """Predict the largest sizes by the law fitted to the smaller sizes; empty if there are too few smaller sizes."""
    k = len(means) - how_many(means)
    if k <= law.n_parameters:
        return []
    kept = means.first(k)
    # The seeds of all sizes say how noise grows, those that are predicted included: they do not say where these lie.
    weights = None if means.weights is None else means.weights[:k]
    found = solve(law, kept.x, kept.y, weights=weights)
    around = spread(law, found.theta, found.frame, kept.x, kept.y, means.noise, weights)
    x, y = means.x[k:], means.y[k:]
    centre = law.value(found.theta, x - found.frame.x) + found.frame.y
    half, half_80 = around.half_width(x, level), around.half_width(x, 0.8)
    span = float(np.ptp(kept.y))
    with np.errstate(over="ignore"):
        return [
            HeldOut.of({means.axis: log_x}, c, log_l, (c - h, c + h), (c - h_80, c + h_80), span)
            for log_x, c, log_l, h, h_80 in zip(x[:, 0], centre, y, half, half_80)
        ]


def hold_out_cells(law: Law, runs: Table, logx: Array, logy: Array, shown: int = 8) -> list[HeldOut]:
    """Predict the runs of the top half-decade of compute by a joint law that is fitted to the other runs.

    Where compute is not known, the product N D stands for it. Runs of the same sizes share one prediction, and at most
    `shown` predictions are returned, by ascending compute; none if the other runs are too few for the law.
    """
    effort = np.log(runs["c"]) if runs.has("c") else logx[:, :2].sum(axis=1)
    top = effort > effort.max() - 0.5 * np.log(10.0)
    rest = ~top
    if rest.sum() <= 2 * law.n_parameters or any(len(np.unique(np.round(c[rest], 2))) < 3 for c in logx.T):
        return []
    found = solve(law, logx[rest], logy[rest], HUBER, polishes=False)
    around = bootstrap(law, found, logx[rest], logy[rest], groups(np.exp(logx[rest, 0])), samples=300)
    order = np.flatnonzero(top)[np.argsort(effort[top], kind="stable")]
    cells: dict[tuple[float, ...], list[int]] = {}
    for k in order:
        cells.setdefault(tuple(np.round(logx[k], 2)), []).append(int(k))
    members = list(cells.values())[-shown:]
    at = np.stack([logx[cell].mean(axis=0) for cell in members])
    y = np.array([logy[cell].mean() for cell in members])
    centre = law.value(found.theta, at - found.frame.x) + found.frame.y
    span = float(np.ptp(logy[rest]))
    ends, ends_80 = (list(zip(*around.band(at, level))) for level in (0.95, 0.8))
    return [HeldOut.of(dict(zip(law.axes, at[j])), centre[j], y[j], ends[j], ends_80[j], span) for j in range(len(y))]
