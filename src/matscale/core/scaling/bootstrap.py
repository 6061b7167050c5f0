"""Uncertainty of a joint law: a bootstrap of residuals that keeps noise between sizes apart from noise between runs.

The residuals of ln L are split into one effect per size (all runs of a size share its width and its tuning) and one
residual per run. Each bootstrap sample adds redrawn size effects (with random signs) and redrawn residuals to the
fitted law; then the law is refitted to the sample with the same Huber objective. Three corrections keep the coverage
right with few runs:

- the variance of residuals is multiplied by n / (n - p) for their degrees of freedom, for runs and likewise for sizes;
- residuals are smoothed, since a Huber loss with a small threshold depends on the density of residuals near 0, which
  the fit of p parameters distorts (De Angelis, Hall & Young 1993);
- quantiles are widened from the normal to Student's t, with Satterthwaite's degrees of freedom for each parameter:
  differences within sizes determine the data exponent, only those between sizes determine the exponent of model size.

docs/laws.md reports the coverage of these intervals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from matscale.core.scaling.intervals import LEVEL
from matscale.core.scaling.law import Array, Frame, Law
from matscale.core.scaling.solve import HUBER, Solution, refine


@dataclass(frozen=True)
class NoiseParts:
    """Noise of ln L about a fitted law: one effect for each size and one residual for each run."""

    sizes: Array
    """Effect of each of the g sizes [g], scaled to a mean square of `between`"""
    runs: Array
    """Residual of each of the k runs about the mean of its size [k], scaled to a mean square of `within`"""
    between: float
    """Variance between sizes, without the part that is due to noise of runs"""
    within: float
    """Variance between runs of a size"""
    size: NDArray[np.int64]
    """Index of the size of each run [k]"""
    freedom_between: int
    """Degrees of freedom between sizes"""
    freedom_within: int
    """Degrees of freedom between runs of a size"""

    @property
    def n_sizes(self) -> int:
        return len(self.sizes)

    def of_sums(self, weights: Array) -> tuple[Array, Array]:
        """Variances of weighted sums of the noise of runs, and their degrees of freedom by Satterthwaite's formula.

        `weights` [s, k] has a row of weights of the runs for each sum. The effect of a size has the sum of the weights
        of its runs.
        """
        order = np.argsort(self.size, kind="stable")
        first = np.searchsorted(self.size[order], np.arange(self.n_sizes))
        by_size = np.add.reduceat(weights[:, order], first, axis=1)
        between, within = (by_size**2).sum(axis=1) * self.between, (weights**2).sum(axis=1) * self.within
        share = between / np.maximum(between + within, 1e-300)
        freedom = 1.0 / (share**2 / self.freedom_between + (1 - share) ** 2 / self.freedom_within)
        return between + within, freedom


def take_apart(residual: Array, size: NDArray[np.int64], n_parameters: int, n_between: int) -> NoiseParts:
    """Split the residuals of ln L [k], one per run, into an effect of each size and a residual of each run.

    `size` [k] is the index of the size of each run, from 0. Of the `n_parameters` of the law, `n_between` are
    determined only by differences between sizes and cost degrees of freedom between sizes. The other parameters cost
    degrees of freedom within sizes.
    """
    k, g = len(residual), int(size.max()) + 1
    counts = np.bincount(size, minlength=g)
    mean = np.bincount(size, residual, g) / counts
    rest = residual - mean[size]
    # Size means use up g degrees of freedom, and the parameters that vary within sizes use up the others.
    many, few = max(k - g - (n_parameters - n_between), 1), max(g - n_between, 1)
    within = float(rest @ rest) / many
    # Size means scatter by the noise of their runs too (on average within * g / k); that part is not counted twice.
    between = max(float(mean @ mean) / few - within * g / k, 0.0)
    rest = rest - rest.mean()
    return NoiseParts(_scaled(mean, between), _scaled(rest, within), between, within, size, few, many)


def between_sizes(law: Law) -> int:
    """Number of parameters that are determined only by differences between sizes.

    They are the factor and the exponent of the term in size, and the floor.
    """
    return 2 if law.floor is None else 3


def _scaled(values: Array, variance: float) -> Array:
    now = float((values**2).mean())
    return values * np.sqrt(variance / now) if now > 0 else values


@dataclass(frozen=True)
class Draws:
    """Bootstrap of a joint law: the parameters of the laws refitted to the samples, in centred logarithms."""

    law: Law
    theta: Array
    """Parameters of the original fit [p]"""
    frame: Frame
    draws: Array
    """Parameters of the law refitted to each of the b bootstrap samples [b, p]"""
    freedom: Array
    """Degrees of freedom of each parameter [p]"""
    noise: NoiseParts

    def stretched(self, factor: float) -> Draws:
        """Copy in which the deviations of all samples from the original fit are multiplied by `factor`."""
        noise = self.noise
        wider = replace(
            noise,
            sizes=noise.sizes * factor,
            runs=noise.runs * factor,
            between=noise.between * factor**2,
            within=noise.within * factor**2,
        )
        return replace(self, draws=self.theta + (self.draws - self.theta) * factor, noise=wider)

    def widened(self, level: float = LEVEL) -> Array:
        """Parameters of the samples [b, p], their deviations from the fit widened from a normal to a t distribution."""
        factor = stats.t.ppf(0.5 + level / 2, self.freedom) / stats.norm.ppf(0.5 + level / 2)
        return np.asarray(self.theta + (self.draws - self.theta) * factor)

    def intervals(self, level: float = LEVEL) -> dict[str, tuple[float, float]]:
        """Confidence interval (low, high) of each parameter, by the name of the parameter."""
        values = self.law.plain(self.law.bounded(self.widened(level)), self.frame)
        ends = {name: np.quantile(v, [0.5 - level / 2, 0.5 + level / 2]) for name, v in values.items()}
        return {name: (float(e[0]), float(e[1])) for name, e in ends.items()}

    def band(self, logx: Array, level: float = LEVEL, new: bool = True) -> tuple[Array, Array]:
        """Interval (low, high) of ln L at each of m points `logx` [m, axes].

        This is the prediction interval for a new run of a new size or, if `new` is false, the confidence interval of
        the law.
        """
        x = logx - self.frame.x
        values = self.law.value(self.draws, x) + self.frame.y  # [b, m]
        centre = self.law.value(self.theta, x) + self.frame.y
        deviation = values - centre
        if new:
            # Normal quantiles in random order rather than random numbers: they add the exact variance to every column,
            # so that the ends of the interval do not depend on luck in the tails.
            scatter = np.sqrt(self.noise.between + self.noise.within)
            steps = stats.norm.ppf((np.arange(len(values)) + 0.5) / len(values))
            deviation = deviation + scatter * np.random.default_rng(0).permutation(steps)[:, None]
        # A prediction depends on all parameters: the one with fewest degrees of freedom sets the width.
        freedom = float(self.freedom.min())
        factor = float(stats.t.ppf(0.5 + level / 2, freedom) / stats.norm.ppf(0.5 + level / 2))
        low, high = np.quantile(deviation * factor, [0.5 - level / 2, 0.5 + level / 2], axis=0)
        return centre + low, centre + high


def bootstrap(
    law: Law,
    solution: Solution,
    logx: Array,
    logy: Array,
    size: NDArray[np.int64],
    *,
    samples: int = 1000,
    seed: int = 0,
    delta: float | None = HUBER,
    n_between: int | None = None,
) -> Draws:
    """Refit a law to `samples` bootstrap samples of its points, which gives the uncertainty of its parameters.

    `n_between` is the number of parameters that are determined only by differences between sizes, by default that of
    `between_sizes`.
    """
    x, y = logx - solution.frame.x, logy - solution.frame.y
    fitted = law.value(solution.theta, x)
    noise = take_apart(y - fitted, size, law.n_parameters, between_sizes(law) if n_between is None else n_between)
    rng = np.random.default_rng(seed)
    # Runs of a size share their effect: if each run drew its own, the exponents would look too certain.
    # Random signs keep the mean of an effect at 0, of which a draw of a few sizes would be far off.
    effects = rng.choice(noise.sizes, (samples, noise.n_sizes)) * rng.choice([-1.0, 1.0], (samples, noise.n_sizes))
    simulated = fitted + effects[:, size] + _smoothed(noise, rng, (samples, len(y)))
    # Samples lie near the fit: its parameters are a good start for all, and a loose tolerance is enough for quantiles.
    draws = refine(law, np.tile(solution.theta, (samples, 1)), x, simulated, delta=delta, steps=60, tolerance=1e-6)
    # A parameter is a weighted sum of residuals, if the law is linearised at the fit.
    freedom = noise.of_sums(np.asarray(np.linalg.pinv(law.derivatives(solution.theta, x), rcond=1e-12), np.float64))[1]
    return Draws(law, solution.theta, solution.frame, draws, freedom, noise)


def _smoothed(noise: NoiseParts, rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Draw residuals of runs with replacement, and smooth them by a Gaussian kernel that keeps their variance."""
    width = len(noise.runs) ** -0.2  # the usual rate of a kernel's width, n^(-1/5)
    drawn = rng.choice(noise.runs, shape) + width * np.sqrt(noise.within) * rng.standard_normal(shape)
    return np.asarray(drawn / np.sqrt(1 + width**2))
