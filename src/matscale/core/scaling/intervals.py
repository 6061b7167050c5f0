"""Intervals of a law that is fitted to the means of sizes: Student's t, with the sizes as observations.

Sizes may have weights, from the scatter of their seeds; the overall scale still comes from the residuals (Knapp &
Hartung 2003).

The power law is linear in ln A and alpha and has exact intervals. Other laws are not linear: their floor and exponents
get profile intervals, {v : (S(v) - S) / (S / (k - p)) <= t²}. S(v) is the residual sum of squares with the parameter
held at v, S its minimum over v (Bates & Watts 1988, ch. 6). Such an interval may be one-sided, as for a floor near 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from matscale.core.scaling.law import VANISHED, Array, Frame, Law
from matscale.core.scaling.noise import SeedSlopes, SizeNoise, correlation_factor
from matscale.core.scaling.solve import objective, refine

LEVEL = 0.95
EVEN = SizeNoise()
"""Noise model in which all sizes have the same variance."""


@dataclass(frozen=True)
class Spread:
    """Uncertainty of a law fitted to the means of sizes: covariance [p, p] of its parameters in centred logarithms."""

    law: Law
    theta: Array
    frame: Frame
    covariance: Array
    """Covariance of the parameters [p, p]"""
    scatter: float
    """Standard deviation of the mean ln L of a size about the law; for a typical size, if it differs between sizes."""
    freedom: float
    """Degrees of freedom: number of sizes minus number of parameters, or less with few seeds (Satterthwaite)."""
    noise: SizeNoise = EVEN
    """Model of how the variance of a size mean depends on size"""
    weights: Array | None = None
    """Weights of the sizes [k]; None: all the same"""

    def stretched(self, factor: float) -> Spread:
        """Copy with all standard errors multiplied by `factor`."""
        return replace(self, covariance=self.covariance * factor**2, scatter=self.scatter * factor)

    def band(self, logx: Array, level: float = LEVEL, new: bool = True) -> tuple[Array, Array]:
        """Interval (low, high) of ln L at each of m points `logx` [m, axes].

        This is the prediction interval for a new size or, if `new` is false, the confidence interval of the law.
        """
        centre, half = self.law.value(self.theta, logx - self.frame.x) + self.frame.y, self.half_width(logx, level, new)
        return centre - half, centre + half

    def half_width(self, logx: Array, level: float = LEVEL, new: bool = True) -> Array:
        """Half-width of the interval of ln L at each of m points `logx` [m, axes].

        This is the prediction interval for a new size or, if `new` is false, the confidence interval of the law.
        """
        gradient = self.law.derivatives(self.theta, logx - self.frame.x)
        variance = np.einsum("kp,pq,kq->k", gradient, self.covariance, gradient)
        if not new or self.noise.is_even:
            variance = variance + (self.scatter**2 if new else 0.0)
            return np.asarray(quantile(level, self.freedom) * np.sqrt(np.maximum(variance, 0.0)))
        variance = variance + self.scatter**2 * self.noise.variance(logx[:, 0])
        quantiles = [quantile(level, freedom) for freedom in self.noise.freedom(self.freedom, logx[:, 0])]
        return np.asarray(np.array(quantiles) * np.sqrt(np.maximum(variance, 0.0)))


def quantile(level: float, freedom: float) -> float:
    """Quantile of |t| for Student's t with `freedom` degrees of freedom; infinite for 0 degrees.

    >>> round(quantile(0.95, freedom=3), 2), round(quantile(0.95, freedom=100), 2)
    (3.18, 1.98)
    """
    return float(stats.t.ppf(0.5 + level / 2, freedom)) if freedom > 0 else float("inf")


def wide_enough(missed: float, half: float) -> float:
    """Factor, at least 1, by which an interval of half-width `half` must grow to reach the distance `missed`."""
    return max(1.0, abs(missed / half)) if half and np.isfinite(half) else 1.0


def spread(
    law: Law,
    theta: Array,
    frame: Frame,
    logx: Array,
    logy: Array,
    noise: SizeNoise | None = None,
    weights: Array | None = None,
) -> Spread:
    """Estimate the uncertainty of a fitted law from the residuals of the means of sizes."""
    freedom = len(logy) - law.n_parameters
    jacobian, residual = _whitened(law, theta, logx - frame.x, logy - frame.y, weights)
    scatter = float(np.sqrt(residual @ residual / freedom)) if freedom > 0 else float("inf")
    covariance: Array = np.asarray(np.linalg.pinv(jacobian.T @ jacobian, rcond=1e-12), dtype=np.float64)
    covariance = covariance * (scatter**2 if freedom > 0 else 1.0)
    return Spread(law, theta, frame, covariance, scatter, max(freedom, 0), noise or EVEN, weights)


def _whitened(law: Law, theta: Array, x: Array, y: Array, weights: Array | None) -> tuple[Array, Array]:
    """Jacobian [k, p] and residuals [k] of a law, divided by the relative standard deviations of the means of sizes."""
    root = np.ones(len(y)) if weights is None else np.sqrt(weights)
    return law.derivatives(theta, x) * root[:, None], (law.value(theta, x) - y) * root


def with_seed_slopes(spread: Spread, slopes: SeedSlopes, logx: Array) -> Spread:
    """Add to the uncertainty of a law that each seed may have a slope of its own.

    The mean slope over few seeds is uncertain, however many sizes there are.
    """
    if slopes.variance <= 0 or spread.freedom <= 0:
        return spread
    law, x = spread.law, logx - spread.frame.x
    root = np.ones(len(x)) if spread.weights is None else np.sqrt(spread.weights)
    turned = np.linalg.pinv(law.derivatives(spread.theta, x) * root[:, None], rcond=1e-12) @ (x[:, 0] * root)
    extra, j = slopes.variance * np.outer(turned, turned), law.parameters.index(law.exponents[0])
    before, added = float(spread.covariance[j, j]), float(extra[j, j])
    freedom = (before + added) ** 2 / max(before**2 / spread.freedom + added**2 / slopes.freedom, 1e-300)
    return replace(spread, covariance=spread.covariance + extra, freedom=freedom)


def with_correlation(spread: Spread, logx: Array, logy: Array) -> Spread:
    """Add to the uncertainty of a law that its misfit may be correlated between neighbouring sizes."""
    law, frame = spread.law, spread.frame
    jacobian, residual = _whitened(law, spread.theta, logx - frame.x, logy - frame.y, spread.weights)
    exponent = law.parameters.index(law.exponents[0])
    factor = correlation_factor(logx[:, 0], jacobian, residual, exponent, spread.noise.misfit(logx[:, 0]))
    return replace(spread, covariance=spread.covariance * factor)


def t_intervals(spread: Spread, logx: Array, logy: Array, level: float = LEVEL) -> dict[str, tuple[float, float]]:
    """Confidence interval (low, high) of each parameter of a law, by the name of the parameter."""
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
    """Values of the parameters and half-widths of their intervals, both [p], in the original units of x and L.

    Parameters that are named in `law.logs` stay logarithms.
    """
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
    """Profile interval (low, high) of one parameter: its values at which the law still fits the points.

    At each value, the other parameters are fitted again.
    """
    law, theta = spread.law, spread.theta
    j = law.parameters.index(name)
    jacobian, residual = _whitened(law, theta, x, y, spread.weights)
    least = float(residual @ residual)
    plain = np.linalg.pinv(jacobian.T @ jacobian, rcond=1e-12)[j, j]
    # Slopes of seeds and correlated misfit widened the covariance; the limit widens the profile by the same factor.
    allowed = spread.covariance[j, j] / plain if plain > 0 else spread.scatter**2
    limit = least + quantile(level, spread.freedom) ** 2 * allowed
    width = float(np.sqrt(max(spread.covariance[j, j], 1e-12)))
    lowest = VANISHED if name == law.floor else -np.inf
    low = _crossing(law, theta, j, x, y, spread.weights, limit, -min(width, 1.0), lowest)
    high = _crossing(law, theta, j, x, y, spread.weights, limit, min(width, 1.0), np.inf)
    if name not in law.logs:
        return low, high
    shift = law.move(theta, spread.frame.x, spread.frame.y)[j] - theta[j] if law.move is not None else 0.0
    if name == law.floor:
        return (0.0 if low <= VANISHED else float(np.exp(low + shift))), float(np.exp(high + shift))
    return float(np.exp(low + shift)), float(np.exp(min(high + shift, 700.0)))


def _crossing(
    law: Law, theta: Array, j: int, x: Array, y: Array, weights: Array | None, limit: float, step: float, bound: float
) -> float:
    """Value of parameter j at which the residual sum of squares, minimised over the other parameters, is `limit`.

    Returns ±inf or `bound` if there is no such value. Growing steps bracket the value, then bisection finds it.
    """
    free = np.ones(law.n_parameters)
    free[j] = 0.0

    def left(value: float, near: Array) -> tuple[float, Array]:
        start = near.copy()
        start[j] = value
        starts = np.stack([start, _at(theta, j, value)])
        ends = refine(law, starts, x, y, weights=weights, free=free, steps=25, tolerance=1e-6)
        squares = 2 * objective(law, ends, x, y, None, weights)
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
