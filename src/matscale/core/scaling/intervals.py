"""Intervals of a law fitted to size means: Student's t, with the sizes as observations.

Linear in ln A and alpha, the power law has exact intervals. The others are not linear: their floor and exponents get
profile intervals, {v : (S(v) - S) / (S / (k - p)) <= t²} with S the sum of squares left when the parameter is held at v
(Bates & Watts 1988, ch. 6), which may be one-sided, as a floor near zero demands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from matscale.core.scaling.law import VANISHED, Array, Frame, Law
from matscale.core.scaling.solve import refine

LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """How uncertain a curve is: by linearisation at the fitted parameters (centred logarithms)."""

    law: Law
    theta: Array
    frame: Frame
    covariance: Array
    """[p, p]"""
    scatter: float
    """Standard deviation of ln L of one size about the law."""
    freedom: int
    """Sizes less parameters."""

    def stretched(self, factor: float) -> Spread:
        """The same with all errors multiplied by `factor`."""
        return replace(self, covariance=self.covariance * factor**2, scatter=self.scatter * factor)

    def band(self, logx: Array, level: float = LEVEL, new: bool = True) -> tuple[Array, Array]:
        """(low, high) of ln L."""
        centre, half = self.law.value(self.theta, logx - self.frame.x) + self.frame.y, self.half_width(logx, level, new)
        return centre - half, centre + half

    def half_width(self, logx: Array, level: float = LEVEL, new: bool = True) -> Array:
        """Of ln L at `logx` [m, axes]; `new`: where a new size would fall, else where the law is."""
        gradient = self.law.derivatives(self.theta, logx - self.frame.x)
        variance = np.einsum("kp,pq,kq->k", gradient, self.covariance, gradient) + (self.scatter**2 if new else 0.0)
        return np.asarray(quantile(level, self.freedom) * np.sqrt(np.maximum(variance, 0.0)))


def quantile(level: float, freedom: int) -> float:
    """Of |t|; infinite without a degree of freedom.

    >>> round(quantile(0.95, freedom=3), 2), round(quantile(0.95, freedom=100), 2)
    (3.18, 1.98)
    """
    return float(stats.t.ppf(0.5 + level / 2, freedom)) if freedom > 0 else float("inf")


def wide_enough(missed: float, half: float) -> float:
    """Factor, 1 at least, by which an interval of half-width `half` has to grow to hold what lies `missed` away."""
    return max(1.0, abs(missed / half)) if half and np.isfinite(half) else 1.0


def spread(law: Law, theta: Array, frame: Frame, logx: Array, logy: Array) -> Spread:
    """From the residuals of size means."""
    x, y = logx - frame.x, logy - frame.y
    freedom = len(y) - law.n_parameters
    residual = law.value(theta, x) - y
    scatter = float(np.sqrt(residual @ residual / freedom)) if freedom > 0 else float("inf")
    jacobian = law.derivatives(theta, x)
    covariance: Array = np.asarray(np.linalg.pinv(jacobian.T @ jacobian, rcond=1e-12), dtype=np.float64)
    return Spread(law, theta, frame, covariance * (scatter**2 if freedom > 0 else 1.0), scatter, max(freedom, 0))


def t_intervals(spread: Spread, logx: Array, logy: Array, level: float = LEVEL) -> dict[str, tuple[float, float]]:
    """Parameter -> (low, high)."""
    law, frame = spread.law, spread.frame
    if spread.freedom == 0:
        return {name: (0.0 if name in law.logs else -np.inf, np.inf) for name in law.parameters}
    centre, half = _linear(spread, level)
    ends = np.stack([centre - half, centre + half])
    found = {
        name: _ordered(np.exp(np.minimum(ends[:, j], 700.0)) if name in law.logs else ends[:, j])
        for j, name in enumerate(law.parameters)
    }
    if law.floor is not None:
        for name in (law.floor, *law.exponents):
            found[name] = profile(spread, name, logx - frame.x, logy - frame.y, level)
    return found


def _ordered(ends: Array) -> tuple[float, float]:
    return float(ends.min()), float(ends.max())


def _linear(spread: Spread, level: float) -> tuple[Array, Array]:
    """Centre and half-width of each parameter as people write the law, logarithms not undone."""
    law, theta, frame = spread.law, spread.theta, spread.frame
    if law.move is None:
        moved, turn = theta, np.eye(len(theta))
    else:
        step = 1e-5
        moved = law.move(theta, frame.x, frame.y)
        sides = [
            (law.move(theta + e, frame.x, frame.y) - law.move(theta - e, frame.x, frame.y)) / (2 * step)
            for e in step * np.eye(len(theta))
        ]
        turn = np.stack(sides, axis=1)
    variance = np.einsum("ip,pq,iq->i", turn, spread.covariance, turn)
    return moved, quantile(level, spread.freedom) * np.sqrt(np.maximum(variance, 0.0))


def profile(spread: Spread, name: str, x: Array, y: Array, level: float = LEVEL) -> tuple[float, float]:
    """The values of one parameter that the points do not reject, all others refitted at each."""
    law, theta = spread.law, spread.theta
    j = law.parameters.index(name)
    least = spread.scatter**2 * spread.freedom
    limit = least * (1 + quantile(level, spread.freedom) ** 2 / spread.freedom)
    width = float(np.sqrt(max(spread.covariance[j, j], 1e-12)))
    lowest = VANISHED if name == law.floor else -np.inf
    low = _crossing(law, theta, j, x, y, limit, -min(width, 1.0), lowest)
    high = _crossing(law, theta, j, x, y, limit, min(width, 1.0), np.inf)
    if name not in law.logs:
        return low, high
    shift = law.move(theta, spread.frame.x, spread.frame.y)[j] - theta[j] if law.move is not None else 0.0
    if name == law.floor:
        return (0.0 if low <= VANISHED else float(np.exp(low + shift))), float(np.exp(high + shift))
    return float(np.exp(low + shift)), float(np.exp(min(high + shift, 700.0)))


def _crossing(law: Law, theta: Array, j: int, x: Array, y: Array, limit: float, step: float, bound: float) -> float:
    """Where the profile of parameter j reaches `limit`, by doubling steps and then bisection; ±inf if it never does."""
    free = np.ones(law.n_parameters)
    free[j] = 0.0

    def left(value: float, near: Array) -> tuple[float, Array]:
        start = near.copy()
        start[j] = value
        ends = refine(law, np.stack([start, _at(theta, j, value)]), x, y, free=free, steps=25, tolerance=1e-6)
        squares = ((law.value(ends, x) - y) ** 2).sum(axis=-1)
        k = int(np.argmin(squares))
        return float(squares[k]), ends[k]

    inside, near = float(theta[j]), theta
    for _ in range(40):
        outside = inside + step
        reached_bound = (outside <= bound) if step < 0 else (outside >= bound)
        outside = bound if reached_bound else outside
        squares, end = left(outside, near)
        if squares > limit:
            break
        if reached_bound or abs(outside) > 50:
            return bound if reached_bound else float(np.sign(step)) * np.inf
        inside, near, step = outside, end, step * 1.6
    for _ in range(14):
        middle = 0.5 * (inside + outside)
        squares, end = left(middle, near)
        inside, outside = (middle, outside) if squares <= limit else (inside, middle)
    return 0.5 * (inside + outside)


def _at(theta: Array, j: int, value: float) -> Array:
    moved = theta.copy()
    moved[j] = value
    return moved
