"""What a law is for: the largest sizes, predicted from the others before they are used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from matscale.core.scaling.intervals import spread
from matscale.core.scaling.law import Law
from matscale.core.scaling.means import Means
from matscale.core.scaling.solve import solve


@dataclass(frozen=True)
class HeldOut:
    """One size that was predicted."""

    at: dict[str, float]
    """Axis -> value"""
    predicted: float
    found: float
    low: float
    """95 % predictive interval of the loss"""
    high: float
    covered_80: bool

    @property
    def error(self) -> float:
        """Signed and relative: predicted / found - 1."""
        return self.predicted / self.found - 1.0

    @property
    def covered(self) -> bool:
        return self.low <= self.found <= self.high

    def plain(self) -> dict[str, object]:
        return {
            "at": self.at,
            "predicted": self.predicted,
            "found": self.found,
            "interval": [self.low, self.high],
            "relative_error": self.error,
            "covered_80": self.covered_80,
            "covered_95": self.covered,
        }


def how_many(means: Means) -> int:
    """Sizes to hold out: the largest; the two largest of eight or more; of compute, the top half-decade at most."""
    if means.axis == "c":
        top = int((means.x[:, 0] > means.x[-1, 0] - 0.5 * np.log(10.0)).sum())
        return max(1, min(top, len(means) // 3))
    return 2 if len(means) >= 8 else 1


def hold_out(means: Means, law: Law, level: float = 0.95) -> list[HeldOut]:
    """The law of the smaller sizes at the largest; empty where they cannot carry it."""
    k = len(means) - how_many(means)
    if k <= law.n_parameters:
        return []
    kept = means.first(k)
    found = solve(law, kept.x, kept.y)
    around = spread(law, found.theta, found.frame, kept.x, kept.y)
    x, y = means.x[k:], means.y[k:]
    log_l = law.value(found.theta, x - found.frame.x) + found.frame.y
    half, half_80 = around.half_width(x, level), around.half_width(x, 0.8)
    with np.errstate(over="ignore"):
        return [
            HeldOut(
                at={means.axis: float(np.exp(x[j, 0]))},
                predicted=float(np.exp(log_l[j])),
                found=float(np.exp(y[j])),
                low=float(np.exp(log_l[j] - half[j])),
                high=float(np.exp(log_l[j] + half[j])),
                covered_80=bool(abs(log_l[j] - y[j]) <= half_80[j]),
            )
            for j in range(len(y))
        ]
