"""Uncertainty of a joint law: a bootstrap over runs with two sources of noise, sizes and runs.

The residuals of ln L are taken apart into one effect per size (every run of a size shares its width and its tuning)
and what is left per run. A sample draws both anew about the fitted law, size effects as a block with random signs, and
is refitted with the same Huber objective. Three corrections make it honest with few runs:

- residuals are scaled by their degrees of freedom, n / (n - p) for runs and likewise for sizes;
- they are smoothed, since Huber's narrow function cares for the density of small residuals, which p fitted ones distort
  (De Angelis, Hall & Young 1993);
- quantiles are widened from the normal to Student's t with Satterthwaite's degrees of freedom, by parameter: a data
  exponent is known from within sizes, a parameter exponent only from between them.

docs/laws.md has the coverage that this reaches.
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
class Noise:
    """Residuals of ln L, split into an effect per size and a residual per run."""

    sizes: Array
    """Effect of each size [g], scaled to the variance between sizes beyond that of runs"""
    runs: Array
    """Residual of each run about its size [k], scaled by its degrees of freedom"""
    between: float
    """Variance between sizes"""
    within: float
    """Variance between runs of a size"""
    size: NDArray[np.int64]
    """Size of each run [k]"""

    @property
    def n_sizes(self) -> int:
        return len(self.sizes)


def take_apart(residual: Array, size: NDArray[np.int64], n_parameters: int, n_between: int) -> Noise:
    """`n_between` of the parameters are known from differences between sizes alone."""
    k, g = len(residual), int(size.max()) + 1
    counts = np.bincount(size, minlength=g)
    mean = np.bincount(size, residual, g) / counts
    rest = residual - mean[size]
    within = float(rest @ rest) / max(k - g - (n_parameters - n_between), 1)
    between = max(float(mean @ mean) / max(g - n_between, 1) - within * g / k, 0.0)
    rest = rest - rest.mean()
    return Noise(_scaled(mean, between), _scaled(rest, within), between, within, size)


def _scaled(values: Array, variance: float) -> Array:
    now = float((values**2).mean())
    return values * np.sqrt(variance / now) if now > 0 else values


@dataclass(frozen=True)
class Draws:
    """Refitted laws, in centred logarithms."""

    law: Law
    theta: Array
    """[p], the fit itself"""
    frame: Frame
    draws: Array
    """[b, p]"""
    freedom: Array
    """Degrees of freedom of each parameter [p]"""
    noise: Noise

    def stretched(self, factor: float) -> Draws:
        """The same with all deviations multiplied by `factor`."""
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
        """Draws moved away from the fit by Student's t over the normal quantile."""
        factor = stats.t.ppf(0.5 + level / 2, self.freedom) / stats.norm.ppf(0.5 + level / 2)
        return np.asarray(self.theta + (self.draws - self.theta) * factor)

    def intervals(self, level: float = LEVEL) -> dict[str, tuple[float, float]]:
        """Parameter -> (low, high)."""
        values = self.law.plain(self.law.bounded(self.widened(level)), self.frame)
        ends = {name: np.quantile(v, [0.5 - level / 2, 0.5 + level / 2]) for name, v in values.items()}
        return {name: (float(e[0]), float(e[1])) for name, e in ends.items()}

    def band(self, logx: Array, level: float = LEVEL, new: bool = True) -> tuple[Array, Array]:
        """(low, high) of ln L at `logx` [m, axes]; `new`: where a new run of a new size would fall."""
        x = logx - self.frame.x
        values = self.law.value(self.draws, x) + self.frame.y  # [b, m]
        centre = self.law.value(self.theta, x) + self.frame.y
        deviation = values - centre
        if new:
            scatter = np.sqrt(self.noise.between + self.noise.within)
            steps = stats.norm.ppf((np.arange(len(values)) + 0.5) / len(values))
            deviation = deviation + scatter * np.random.default_rng(0).permutation(steps)[:, None]
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
    """Refit `samples` samples of the points. `n_between`: default one for the floor and two for a power of the size."""
    x, y = logx - solution.frame.x, logy - solution.frame.y
    fitted = law.value(solution.theta, x)
    between = n_between if n_between is not None else (2 if law.floor is None else 3)
    noise = take_apart(y - fitted, size, law.n_parameters, between)
    rng = np.random.default_rng(seed)
    effects = rng.choice(noise.sizes, (samples, noise.n_sizes)) * rng.choice([-1.0, 1.0], (samples, noise.n_sizes))
    simulated = fitted + effects[:, size] + _smoothed(noise, rng, (samples, len(y)))
    draws = refine(law, np.tile(solution.theta, (samples, 1)), x, simulated, delta=delta, steps=40, tolerance=1e-6)
    return Draws(law, solution.theta, solution.frame, draws, _freedom(law, solution.theta, x, noise, between), noise)


def _smoothed(noise: Noise, rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Residuals drawn again, with a Gaussian about each; their variance stays what it was."""
    width = len(noise.runs) ** -0.2
    drawn = rng.choice(noise.runs, shape) + width * np.sqrt(noise.within) * rng.standard_normal(shape)
    return np.asarray(drawn / np.sqrt(1 + width**2))


def _freedom(law: Law, theta: Array, x: Array, noise: Noise, n_between: int) -> Array:
    """Satterthwaite's degrees of freedom of each parameter, from its variance by linearisation."""
    inverse = np.linalg.pinv(law.derivatives(theta, x), rcond=1e-12)  # [p, k]
    by_size = np.stack([inverse[:, noise.size == g].sum(axis=1) for g in range(noise.n_sizes)], axis=1)
    between, within = (by_size**2).sum(axis=1) * noise.between, (inverse**2).sum(axis=1) * noise.within
    share = between / np.maximum(between + within, 1e-300)
    few = max(noise.n_sizes - n_between, 1)
    many = max(x.shape[0] - noise.n_sizes - (law.n_parameters - n_between), 1)
    return np.asarray(1.0 / (share**2 / few + (1 - share) ** 2 / many))
