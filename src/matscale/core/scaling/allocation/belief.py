"""Probability distribution of the loss of any run: a law fitted to runs, with the covariance of its parameters.

The claimed precision is tested on held-out runs: the law is fitted again without the most expensive tenth, fifth and
two fifths of the runs, and predicts those. If the squared errors of a prediction exceed its variance, all variances are
multiplied by the ratio, the largest of the three.

The width of Huber's function follows from the residuals (Huber 1964). The fixed width that `fit` uses is far smaller
than the residuals; such a fit is close to one of medians, which needs 1.5 times as many runs for the same precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from matscale.core.scaling.intervals import LEVEL
from matscale.core.scaling.law import Array, Law
from matscale.core.scaling.solve import HUBER, Solution, refine, solve

PRIOR = 3.0
"""Prior standard deviation of a parameter: for logarithms, a factor of 20."""
HELD_OUT = (0.1, 0.2, 0.4)
"""Shares of the runs that are held out in turn. The most expensive runs are held out, and predicted from the others."""
WIDTH = 1.345
"""Width of Huber's function in standard deviations: 95 % as precise as least squares on normal noise."""


@dataclass(frozen=True)
class Belief:
    """Law fitted to runs, with the covariance of its parameters; gives the loss of any run with its uncertainty."""

    law: Law
    solution: Solution
    root: Array
    """R [p, p]; R Rᵀ is the covariance of theta"""
    noise: float
    """Variance of ln L of a new run about the fitted law"""
    freedom: int
    """Degrees of freedom of `noise`"""

    def mean(self, x: Array) -> Array:
        """Predicted ln L [k] of k runs at ln x [k, axes]."""
        frame = self.solution.frame
        return self.law.value(self.solution.theta, x - frame.x) + frame.y

    def deviations(self, x: Array) -> Array:
        """Changes [p, k] of ln L at k points `x` for one standard deviation along each principal direction of theta.

        The sum of the squares of a column is the variance of ln L at that point.
        """
        at = x - self.solution.frame.x
        return np.asarray((self.law.derivatives(self.solution.theta, at) @ self.root).T)

    def deviations_of(self, number: Callable[[Array], Array]) -> Array:
        """Change [p] of any function of the parameters for one standard deviation along each principal direction.

        `number` takes b sets of parameters [b, p] and returns b values. The change is half the difference between its
        values at +1 and at -1 standard deviation.
        """
        theta, steps = self.solution.theta, self.root.T
        return np.asarray((number(theta + steps) - number(theta - steps)) / 2)

    def interval(self, x: Array, level: float = LEVEL) -> tuple[Array, Array]:
        """Prediction interval (low, high) of ln L of new runs at ln x [k, axes]."""
        spread = np.sqrt((self.deviations(x) ** 2).sum(axis=0) + self.noise)
        half = self.quantile(level) * spread
        return self.mean(x) - half, self.mean(x) + half

    def quantile(self, level: float = LEVEL) -> float:
        """Quantile of Student's t for a two-sided interval: its half-width in standard deviations."""
        return float(stats.t.ppf(0.5 + level / 2, self.freedom))


def believe(law: Law, x: Array, y: Array, cost: Array) -> Belief:
    """Fit `law` to runs, and widen its uncertainty if the law predicts the most expensive runs badly.

    `x` is ln x [k, axes] and `y` ln L [k] of the k runs; `cost` [k] tells which of them are the most expensive.
    """
    belief = _fitted(law, x, y)
    order = np.argsort(cost, kind="stable")
    factor = 1.0
    for n_held in sorted({max(2, round(share * len(y))) for share in HELD_OUT}):
        rest, held = order[:-n_held], order[-n_held:]
        if len(rest) > law.n_parameters:
            before = _fitted(law, x[rest], y[rest])
            claimed = (before.deviations(x[held]) ** 2).sum(axis=0) + before.noise
            factor = max(factor, float(((before.mean(x[held]) - y[held]) ** 2 / claimed).mean()))
    return replace(belief, root=belief.root * np.sqrt(factor), noise=belief.noise * factor)


def _fitted(law: Law, x: Array, y: Array) -> Belief:
    solution = solve(law, x, y, HUBER, polishes=False)
    at, below = x - solution.frame.x, y - solution.frame.y
    width = WIDTH * 1.4826 * float(np.median(np.abs(below - law.value(solution.theta, at))))
    if width > HUBER:
        solution = replace(solution, theta=refine(law, solution.theta[None], at, below, delta=width)[0])
    residual = below - law.value(solution.theta, at)
    freedom = max(len(y) - law.n_parameters, 1)
    noise = max(float(residual @ residual) / freedom, 1e-10)
    jacobian = law.derivatives(solution.theta, at)
    values, vectors = np.linalg.eigh(jacobian.T @ jacobian / noise + np.eye(law.n_parameters) / PRIOR**2)
    return Belief(law, solution, vectors / np.sqrt(np.maximum(values, 1 / PRIOR**2)), noise, freedom)
