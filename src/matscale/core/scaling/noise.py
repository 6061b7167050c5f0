"""Noise between runs of one size: outliers, seed noise that changes with size, slopes of single seeds, misfit of sizes.

The mean over the seeds of a size has the variance τ² + σ²(x)/seeds. σ is the scatter of seeds, with ln σ² = a + g ln x
for all sizes together, since three seeds say little about a single size; g is shrunk towards 0 according to its error.
τ is the scatter of sizes beyond that of seeds: the value at which a parabola in ln x fits the means as well as expected
(Paule & Mandel 1982). Fits weight each size by the inverse variance and take the overall scale from the residuals
(Knapp & Hartung 2003), so that wrong weights do little harm.

Noise is independent between runs and between sizes, with two exceptions. Each seed may have a slope of its own: an
analysis of variance estimates how much slopes differ, and the interval of the exponent includes that. Misfit may be
correlated between sizes, which can hardly be detected in ten sizes. The correlation therefore gets a prior: probability
1/2 for none, 1/2 evenly for correlations of 0.1 to 0.9 between neighbours. The residuals update the prior, and the
posterior widens the interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from matscale.core.scaling.law import Array

Sizes = NDArray[np.int64]
BEYOND = 5.0
"""Distance in standard deviations beyond which a run is an outlier among the runs of its size."""
CHANCE = 0.005
"""Rate of false alarms: share of tables without outliers in which a run is taken for an outlier."""
LEAST = 0.005
"""Least distance of an outlier from the other runs of its size, in ln loss."""
NEIGHBOURS = np.arange(0.0, 0.95, 0.1)
"""Correlations between neighbouring sizes that get a probability."""
BELIEF = np.where(NEIGHBOURS == 0, 0.5, 0.5 / (len(NEIGHBOURS) - 1))


# Noise of seeds -----------------------------------------------------------------------------------------------------


def trend(x: Array, squares: Array, freedom: Array) -> tuple[Array, Array, Array]:
    """Fit a line ln σ² = level + slope ln x to variances at k sizes: returns level, slope, variance of the slope.

    `x` [k] is ln of the sizes; `squares` [..., k] are sums of squares with `freedom` [..., k] degrees of freedom. The
    line is fitted by maximum likelihood; then the slope is multiplied by 1 - variance / slope², or by 0 if that factor
    is negative.
    """
    total = np.maximum(freedom.sum(axis=-1), 1e-300)
    centre = (freedom * x).sum(axis=-1) / total
    at = x - centre[..., None]
    information = 0.5 * (freedom * at**2).sum(axis=-1)
    slope = np.zeros(squares.shape[:-1])

    def level() -> Array:
        scaled = (squares * np.exp(-slope[..., None] * at)).sum(axis=-1) / total
        return np.asarray(np.maximum(scaled, 1e-300))

    if np.all(information > 1e-12):
        for _ in range(25):
            ratio = squares * np.exp(-slope[..., None] * at) / level()[..., None]
            score = 0.5 * ((ratio - freedom) * at).sum(axis=-1)
            slope = np.clip(slope + score / information, -3.0, 3.0)
        slope = slope * np.maximum(0.0, 1 - 1 / (information * np.maximum(slope**2, 1e-300)))
    return np.log(level()) - slope * centre, slope, 1 / np.maximum(information, 1e-12)


@dataclass(frozen=True)
class SizeNoise:
    """Model of the variance of the mean ln L of a size, up to a factor that the residuals of a fit determine."""

    sizes: float = 1.0
    """τ², the variance of sizes beyond that of seeds"""
    level: float = -np.inf
    """ln σ² at ln x = 0"""
    slope: float = 0.0
    """d ln σ² / d ln x"""
    seeds: Array | None = None
    """Number of runs of each size [k]; None if the scatter of seeds is unknown"""
    scale: float = 1.0
    """Geometric mean of the variances of the sizes"""
    centre: float = 0.0
    """ln x of a typical size"""
    doubt: float = 0.0
    """Variance of `slope`"""

    @property
    def is_even(self) -> bool:
        return self.seeds is None or (self.slope == 0 and float(np.ptp(self.seeds)) == 0)

    def variance(self, x: Array, seeds: Array | float | None = None) -> Array:
        """Variance of the means of sizes at ln x [k], relative to its geometric mean over the sizes of the fit.

        `seeds` is the number of runs per size; None: the median number over the sizes, as for a new size.
        """
        if self.is_even:
            return np.ones(len(x))
        runs = float(np.median(np.asarray(self.seeds))) if seeds is None else seeds
        with np.errstate(over="ignore"):
            return np.asarray((self.sizes + np.exp(self.level + self.slope * x) / runs) / self.scale)

    def freedom(self, spare: float, x: Array) -> Array:
        """Degrees of freedom of the variance at ln x [k]: `spare` at the `centre`, fewer the further x is from it."""
        doubt = 0.0 if self.slope == 0 else self.doubt
        with np.errstate(divide="ignore"):
            return np.asarray(1 / (1 / np.float64(spare) + 0.5 * doubt * (x - self.centre) ** 2))

    def misfit(self, x: Array) -> float:
        """Mean share of the variance that comes from sizes rather than seeds; 1 if the scatter of seeds is unknown."""
        if self.seeds is None:
            return 1.0
        return float((self.sizes / (self.sizes + np.exp(self.level + self.slope * x) / self.seeds)).mean())


def size_noise(x: Array, y: Array, logs: Array, size: Sizes) -> SizeNoise:
    """Estimate the variance of the mean of each size, from the scatter of its seeds and of the sizes.

    `x` [k] is ln of each size and `y` [k] the mean ln loss of its runs. `logs` [n] is the ln loss of each run and
    `size` [n] the index of its size.
    """
    k = len(y)
    counts = np.bincount(size, minlength=k).astype(float)
    freedom: Array = counts - 1
    if len(counts) != k or counts.min() < 1 or freedom.sum() < 2:
        return SizeNoise()
    means = np.bincount(size, logs, k) / counts
    squares = np.bincount(size, (logs - means[size]) ** 2, k).astype(float)
    if float(squares.sum()) < 1e-24 * freedom.sum():
        return SizeNoise()
    level, slope, doubt = trend(x, squares, freedom)
    of_seeds = np.exp(level + slope * x) / counts
    tau = _beyond(x, y, of_seeds)
    scale = float(np.exp(np.log(tau + of_seeds).mean()))
    return SizeNoise(tau, float(level), float(slope), counts, scale, float(x.mean()), float(doubt))


def _beyond(x: Array, y: Array, known: Array) -> float:
    """Variance τ² of the means of sizes about a parabola, in addition to the `known` variance [k] of each mean.

    For five sizes or fewer, a line takes the place of the parabola.
    """
    at = x - x.mean()
    columns = np.stack([np.ones_like(at), at, at**2][: 3 if len(y) > 5 else 2], axis=-1)
    freedom: int = len(y) - columns.shape[1]
    if freedom < 1:
        return 0.0

    def excess(tau: float) -> float:
        root = 1 / np.sqrt(tau + known)
        left = (y - columns @ np.linalg.lstsq(columns * root[:, None], y * root, rcond=None)[0]) * root
        return float(left @ left) - freedom

    if excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, float(np.ptp(y) ** 2) + float(known.max())
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


# Outlier runs -------------------------------------------------------------------------------------------------------


def outliers(x: Array, logs: Array, size: Sizes) -> list[int]:
    """Find outlier runs: indices of runs whose loss lies far from that of the other runs of their size.

    The furthest run comes first, and is removed before the next is looked for. `x` [k] is ln of each size, `logs` [n]
    the ln loss of each run, `size` [n] the index of its size. Only sizes with three or more runs are searched: of two
    runs that disagree, either may be the outlier.
    """
    left: list[int] = []
    kept = np.ones(len(logs), dtype=bool)
    while len(left) < len(logs) // 10 + 1:
        far = _furthest(x, logs[kept], size[kept])
        if far is None:
            break
        left.append(int(np.flatnonzero(kept)[far]))
        kept[left[-1]] = False
    return left


def _furthest(x: Array, logs: Array, size: Sizes) -> int | None:
    """Index of the run furthest from the mean of the other runs of its size; None if chance explains its distance."""
    counts = np.bincount(size, minlength=len(x)).astype(float)
    tried = np.flatnonzero(counts[size] > 2)
    freedom = counts - 1
    if len(tried) == 0 or freedom.sum() < 4:
        return None
    means = np.bincount(size, logs, len(x)) / np.maximum(counts, 1)
    squares = np.bincount(size, (logs - means[size]) ** 2, len(x)).astype(float)
    of = size[tried]
    away = (logs[tried] - means[of]) * counts[of] / (counts[of] - 1)  # from the mean of the others
    rows = np.arange(len(tried))
    others: Array = np.tile(squares, (len(tried), 1))
    spare: Array = np.tile(np.maximum(freedom, 0).astype(float), (len(tried), 1))
    others[rows, of] = np.maximum(others[rows, of] - away**2 * (counts[of] - 1) / counts[of], 0.0)
    spare[rows, of] -= 1
    level, slope, _ = trend(x, others, spare)
    sigma = np.exp(0.5 * (level + slope * x[of])) * np.sqrt(counts[of] / (counts[of] - 1))
    score = np.abs(away) / np.maximum(sigma, 1e-12)
    chance = 2 * stats.t.sf(score, np.maximum(spare.sum(axis=1), 1)) * len(tried)
    far = int(np.argmax(score))
    if score[far] < BEYOND or chance[far] > CHANCE or abs(away[far]) < LEAST:
        return None
    return int(tried[far])


# Slopes of seeds ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeedSlopes:
    """Estimate of how much the slopes of single seeds differ, beyond what the noise of runs explains."""

    variance: float = 0.0
    """Variance of the mean slope over the seeds that is due to these differences"""
    freedom: float = 1.0
    p: float = 1.0
    """p-value of the hypothesis that all seeds have the same slope"""


def seed_slopes(x: Array, logs: Array, size: Sizes, seeds: NDArray[np.str_], noise: SizeNoise) -> SeedSlopes:
    """Estimate how much the slopes of single seeds differ, from seeds that occur at several sizes.

    Only half of the variance that noise explains is subtracted: with few seeds, subtracting all would find 0 too often.
    """
    if noise.seeds is None:
        return SeedSlopes()
    labels, seed = np.unique(seeds, return_inverse=True)
    if not 2 <= len(labels) <= len(logs) // 3:
        return SeedSlopes()
    root = np.exp(-0.5 * (noise.slope * (x[size] - x.mean())))
    at = (x[size] - x.mean()) * root
    by_size, by_seed = np.eye(len(x))[size] * root[:, None], np.eye(len(labels))[seed] * root[:, None]
    basis = _basis(np.column_stack([by_size, by_seed]))
    slopes = np.eye(len(labels))[seed] * at[:, None]
    slopes = slopes - basis @ (basis.T @ slopes)
    y = logs * root
    y = y - basis @ (basis.T @ y)
    own = _basis(slopes)
    n_slopes, freedom = own.shape[1], len(y) - basis.shape[1] - own.shape[1]
    if n_slopes < 1 or freedom < 2:
        return SeedSlopes()
    explained = float(((own.T @ y) ** 2).sum())
    noise_of_runs = max(float(y @ y) - explained, 0.0) / freedom
    if not noise_of_runs > 0:
        return SeedSlopes()
    between = explained / n_slopes
    per_slope = float((slopes**2).sum()) / n_slopes
    variance = max(between - 0.5 * noise_of_runs, 0.0) / per_slope / len(labels)
    p = float(stats.f.sf(between / noise_of_runs, n_slopes, freedom))
    return SeedSlopes(variance, float(n_slopes), p)


def _basis(columns: Array) -> Array:
    """Orthonormal basis of the space that `columns` span."""
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(u[:, s > 1e-9 * max(float(s.max(initial=0.0)), 1e-300)])


# Correlated misfit --------------------------------------------------------------------------------------------------


def correlation_factor(x: Array, jacobian: Array, residual: Array, parameter: int, misfit: float) -> float:
    """Factor (1 or more) by which a parameter's variance grows if misfit is correlated between neighbouring sizes.

    `jacobian` [k, p] and `residual` [k] are divided by the standard deviations of the sizes. `misfit` is the share of
    the variance of their means that comes from sizes rather than seeds.
    """
    k, p = jacobian.shape
    if k - p < 2 or misfit <= 0 or not residual @ residual > 0:
        return 1.0
    inverse = np.linalg.pinv(jacobian, rcond=1e-12)
    weights, maker = inverse[parameter], np.eye(k) - jacobian @ inverse
    apart = np.abs(x[:, None] - x) / np.diff(np.sort(x)).mean()
    likelihood, factors = [], []
    for rho in NEIGHBOURS:
        matrix = misfit * (rho**apart if rho else np.eye(k)) + (1 - misfit) * np.eye(k)
        solved = np.linalg.solve(matrix, np.column_stack([jacobian, residual]))
        information = jacobian.T @ solved[:, :p]
        moment = jacobian.T @ solved[:, p]
        left = residual @ solved[:, p] - moment @ np.linalg.lstsq(information, moment, rcond=1e-12)[0]
        logs = np.linalg.slogdet(matrix)[1] + np.linalg.slogdet(information)[1]
        likelihood.append(-0.5 * logs - 0.5 * (k - p) * np.log(max(float(left), 1e-300)))
        spread = float(weights @ matrix @ weights) / float(weights @ weights)
        factors.append(spread * (k - p) / float(np.trace(maker @ matrix)))
    belief = BELIEF * np.exp(np.array(likelihood) - max(likelihood))
    return max(1.0, float(belief @ np.array(factors) / belief.sum()))
