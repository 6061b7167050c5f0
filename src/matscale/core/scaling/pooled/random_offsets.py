"""Linear regression with a random offset per group, estimated by restricted maximum likelihood (REML).

    y = X beta + b_group + e,  b ~ N(0, tau²),  e ~ N(0, sigma²)

For a given lambda = tau² / sigma² the solution has a closed form (generalised least squares), so REML is a search over
one number (Patterson & Thompson 1971), done on a grid. Packages for mixed models treat the estimated lambda as exact:
their intervals are too narrow for few groups, and they have no intervals for offsets if lambda is 0. Here the estimates
are those at the most likely lambda, and intervals average Student's t over all lambdas, weighted by the restricted
likelihood and the prior of Box & Tiao (1973, section 5.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, stdtr

from matscale.core.scaling.law import Array

LAMBDAS = np.geomspace(1e-4, 1e9, 161)
NEGLIGIBLE = 1e-5
"""Relative weight of a lambda below which it is left out of the averages."""
EXACT = 1e-22
"""Square of a residual of ln L below which there are only rounding errors."""


@dataclass(frozen=True)
class RandomOffsets:
    """Result of a regression with random offsets: the estimates, and values at each of m plausible lambdas."""

    beta: Array
    """Coefficients [p] at the most likely lambda"""
    offsets: Array
    """Offset of each group [g] at the most likely lambda, shrunk towards 0 by the share that noise explains"""
    tau: float
    """Standard deviation of the offsets"""
    sigma: float
    """Standard deviation of points about the line of their group"""
    freedom: int
    """Number of points minus number of coefficients"""
    lambdas: Array
    weights: Array
    """Weight of each lambda in the averages [m]; they sum to 1"""
    betas: Array
    """Coefficients at each lambda [m, p]"""
    inverse: Array
    """(Xᵀ H⁻¹ X)⁻¹ at each lambda [m, p, p]; sigma² H is the covariance of y"""
    squares: Array
    """Residual sum of squares rᵀ H⁻¹ r at each lambda [m]"""
    counts: Array
    """Number of points of each group [g]"""
    centre: Array
    """Mean of each column of X over each group [g, p]"""
    means: Array
    """Mean of y of each group [g]"""
    can_be_none: bool
    """Whether tau = 0 is compatible with the points"""

    def shrinkage(self) -> Array:
        """Share of a group's mean residual that counts as its offset, at each of m lambdas for g groups [m, g]."""
        return np.asarray(self.lambdas[:, None] * self.counts / (1 + self.lambdas[:, None] * self.counts))

    def of_line(self, at: Array, level: float, group: int | None = None, new: bool = False) -> tuple[Array, Array]:
        """Interval (low, high) of the fitted line at the rows `at` [k, p] of a design matrix.

        For a `group`, given by its index, this is the line of the group; otherwise, it is the line of a typical group.
        With `new`, the interval is that of a prediction: for a new point of the group or, without `group`, of a new
        group.
        """
        centre, variance = self.betas @ at.T, np.einsum("kp,mpq,kq->mk", at, self.inverse, at)
        if group is not None:
            share = self.shrinkage()[:, group, None]
            moved = at[None] - share[..., None] * self.centre[group]
            centre = centre + share * (self.means[group] - self.betas @ self.centre[group])[:, None]
            variance = np.einsum("mkp,mpq,mkq->mk", moved, self.inverse, moved) + self._left(group)
        if new:
            variance = variance + 1 + (self.lambdas[:, None] if group is None else 0)
        return self._ends(centre, variance, level)

    def of_offsets(self, level: float) -> tuple[Array, Array]:
        """Interval (low, high) of the offset of each group [g], relative to the mean of the groups in the table.

        Relative to the mean of all possible groups, offsets are far more uncertain if there are few groups.
        """
        share, against = self.shrinkage(), np.eye(len(self.counts)) - 1 / len(self.counts)
        centre = share * (self.means - self.betas @ self.centre.T) @ against
        moved = np.einsum("gh,mh,hp->mgp", against, share, self.centre)
        variance = np.einsum("mgp,mpq,mgq->mg", moved, self.inverse, moved)
        left = np.stack([self._left(g)[:, 0] for g in range(len(self.counts))], axis=1)
        return self._ends(centre, variance + left @ against**2, level)

    def of_tau(self, level: float) -> tuple[float, float]:
        low, high = self._deviation(self.lambdas, level)
        return (0.0 if self.can_be_none else low), high

    def of_sigma(self, level: float) -> tuple[float, float]:
        return self._deviation(np.ones_like(self.lambdas), level)

    def covariance(self) -> Array:
        """Covariance of the coefficients [p, p], averaged over all lambdas."""
        scale = self.squares / max(self.freedom - 2, 1)
        about = self.betas - self.weights @ self.betas
        inner = np.einsum("m,mpq->pq", self.weights * scale, self.inverse)
        return np.asarray(inner + np.einsum("m,mp,mq->pq", self.weights, about, about))

    def _left(self, group: int) -> Array:
        """Variance of the offset of a group that remains once its points are known, in units of sigma² [m, 1]."""
        return np.asarray(self.lambdas / (1 + self.lambdas * self.counts[group]))[:, None]

    def _ends(self, centre: Array, variance: Array, level: float) -> tuple[Array, Array]:
        """Quantiles (low, high) of averages of Student's t over the m lambdas, by bisection; both [k].

        `centre` and `variance` [m, k] are those of the distributions.
        """
        scale = np.sqrt(np.maximum(variance * self.squares[:, None] / self.freedom, 1e-300))
        reach = 40 * scale.max(axis=0) + np.ptp(centre, axis=0)
        ends = []
        for share in (0.5 - level / 2, 0.5 + level / 2):
            low, high = centre.min(axis=0) - reach, centre.max(axis=0) + reach
            for _ in range(45):
                middle = 0.5 * (low + high)
                is_below = self.weights @ stdtr(self.freedom, (middle - centre) / scale) < share
                low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
            ends.append(0.5 * (low + high))
        return ends[0], ends[1]

    def _deviation(self, factors: Array, level: float) -> tuple[float, float]:
        """Quantiles (low, high) of the square root of `factors` times sigma²; sigma² = squares / chi-square."""
        ends = []
        for share in (0.5 - level / 2, 0.5 + level / 2):
            low, high = -60.0, 20.0
            for _ in range(45):
                middle = 0.5 * (low + high)
                chances = chdtrc(self.freedom, factors * self.squares / np.exp(2 * middle))
                low, high = (middle, high) if self.weights @ chances < share else (low, middle)
            ends.append(float(np.exp(middle)))
        return ends[0], ends[1]


def whiten(values: Array, group: NDArray[np.int64], ratio: Array) -> Array:
    """Multiply `values` [k, ...] by the matrix H^(-1/2) for each of m values of lambda in `ratio`: returns [m, k, ...].

    H [k, k] is the identity, plus lambda in each element whose two points belong to one group.
    """
    counts = np.bincount(group)
    sums = np.stack([np.bincount(group, column) for column in values.reshape(len(group), -1).T], axis=1)
    mean = (sums / counts[:, None])[group].reshape(values.shape)
    share = (1 - 1 / np.sqrt(1 + ratio[:, None] * counts))[:, group]
    return np.asarray(values[None] - share.reshape(share.shape + (1,) * (values.ndim - 1)) * mean[None])


def random_offsets(columns: Array, y: Array, group: NDArray[np.int64]) -> RandomOffsets:
    """Fit `y` [k] by `columns` [k, p] and a random offset for each group, by restricted maximum likelihood.

    `group` [k] is the index of the group of each point, from 0 and without gaps.
    >>> x, group = np.tile(np.arange(4.0), 3), np.repeat(np.arange(3), 4)
    >>> y = 2 - 0.5 * x + np.array([-1.0, 0.0, 1.0])[group] + 0.01 * np.cos(7.0 * np.arange(12))
    >>> found = random_offsets(np.column_stack([np.ones(12), x]), y, group)
    >>> found.beta.round(1).tolist(), found.offsets.round(1).tolist(), round(found.tau, 1)
    ([2.0, -0.5], [-1.0, -0.0, 1.0], 1.0)
    """
    k, p = columns.shape
    counts = np.bincount(group)
    betas, inverse, squares, likelihood = _restricted(columns, y, group, LAMBDAS)
    best = int(np.argmax(likelihood))
    weight = np.exp(likelihood - likelihood[best]) * LAMBDAS / (1 + LAMBDAS * counts.mean())
    chosen = weight > NEGLIGIBLE * weight.max()
    centre = np.stack([np.bincount(group, column) / counts for column in columns.T], axis=1)
    means = np.bincount(group, y) / counts
    at, (none,) = LAMBDAS[best], _restricted(columns, y, group, np.zeros(1))[3]
    sigma = float(np.sqrt(squares[best] / (k - p)))
    return RandomOffsets(
        beta=betas[best],
        offsets=at * counts / (1 + at * counts) * (means - centre @ betas[best]),
        tau=float(sigma * np.sqrt(at)) if best > 0 else 0.0,
        sigma=sigma,
        freedom=k - p,
        lambdas=LAMBDAS[chosen],
        weights=weight[chosen] / weight[chosen].sum(),
        betas=betas[chosen],
        inverse=inverse[chosen],
        squares=squares[chosen],
        counts=counts.astype(np.float64),
        centre=centre,
        means=means,
        can_be_none=bool(none > likelihood[best] - 1.92),  # half the 95 % quantile of a chi-square
    )


def _restricted(columns: Array, y: Array, group: NDArray[np.int64], ratio: Array) -> tuple[Array, Array, Array, Array]:
    """Fit at each lambda of `ratio`, by restricted maximum likelihood.

    Returns the coefficients, the inverse of Xᵀ H⁻¹ X, the residual sums of squares, and ln of the restricted
    likelihood.
    """
    x, right = whiten(columns, group, ratio), whiten(y, group, ratio)
    inner = np.swapaxes(x, 1, 2) @ x
    inverse = np.linalg.inv(inner)
    betas = np.einsum("mpq,mkq,mk->mp", inverse, x, right)
    left = right - np.einsum("mkp,mp->mk", x, betas)
    squares = np.maximum((left**2).sum(axis=1), EXACT * len(y))
    size = np.log1p(ratio[:, None] * np.bincount(group)).sum(axis=1)
    freedom = len(y) - columns.shape[1]
    likelihood: Array = -0.5 * (size + np.linalg.slogdet(inner)[1] + freedom * np.log(squares))
    return betas, np.asarray(inverse, dtype=np.float64), squares, likelihood
