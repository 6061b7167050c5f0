r"""Statistics of attention against distance, with intervals by bootstrap over structures.

    relative weight     r_ij = n_i w_ij                    n_i: number of keys of atom i; 1 is even attention
    rank correlation    Spearman's ρ of r and d over the pairs of a structure, mean over structures
    decay               w_ij = exp(c_i − d_ij / λ)         c_i free, since weights of an atom sum to one

The decay rate 1/λ is fitted by least squares of log w on d, in which a pair counts by its share of the weight of its
atom: weights that vanish, such as those at a cutoff, have no influence. Pairs of an atom with itself at distance 0 are
left out of all these; their weights have a mean of their own.

All four are ratios of sums over structures, Σ a_s / Σ b_s. A bootstrap sample draws structures with replacement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]

SAMPLES = 2000
LEVEL = 0.95
BIN = 0.25
"""Width of the bins of the curve of weight against distance [Å]."""
SAME = 4
"""Decimals [Å] to which distances are rounded for ranks: pairs of a shell are equally far, but for rounding errors."""

EQUAL = 6
"""Decimals to which relative weights are rounded for ranks, for the same reason: pairs beyond a cutoff are alike."""


class Estimate(NamedTuple):
    """Value with the ends of its interval; all are NaN where there is no value, and the ends with one structure."""

    value: float
    low: float
    high: float

    def inverse(self) -> Estimate:
        """Length of a rate. The upper end is infinite if the rate may be zero, and all are NaN if weights grow.

        >>> Estimate(0.5, -0.1, 1.0).inverse()
        Estimate(value=2.0, low=1.0, high=inf)
        """
        if not self.value > 0:
            return Estimate(np.nan, np.nan, np.nan)
        return Estimate(1 / self.value, 1 / self.high, 1 / self.low if self.low > 0 else np.inf)


@dataclass(frozen=True)
class Pairs:
    """Pairs of one structure in one layer: distances [n_pairs] Å, weights [n_heads, n_pairs], and their atoms."""

    query: NDArray[np.int64]
    """[n_pairs] index of the atom that attends, from 0."""
    key: NDArray[np.int64]
    distance: Array
    weights: Array

    @property
    def is_self(self) -> NDArray[np.bool_]:
        """[n_pairs] whether a pair is an atom with itself, not with an image of itself."""
        found: NDArray[np.bool_] = (self.query == self.key) & (self.distance < 1e-6)
        return found

    def relative(self) -> Array:
        """Weights [n_heads, n_pairs] times the number of keys of their query."""
        return np.asarray(self.weights * np.bincount(self.query)[self.query])


def sums_of(pairs: Pairs) -> Array:
    """Contributions of one structure to the ratios: [2, n_heads, 3 + n_bins], numerators and denominators.

    Columns are the rank correlation, the decay rate, the weight on oneself, and the relative weight in each bin.
    """
    others = ~pairs.is_self
    query, distance, weights = pairs.query[others], pairs.distance[others], pairs.weights[:, others]
    relative, bins = pairs.relative()[:, others], (distance / BIN).astype(int)
    n_own, counts = float((~others).sum()), np.bincount(bins)
    rows = []
    for w, r, own in zip(weights, relative, pairs.weights[:, ~others].sum(1)):
        rho, (fall, spread) = spearman(distance, r), _decay(query, distance, w)
        is_known = np.isfinite(rho)
        rows.append(
            [
                [rho if is_known else 0.0, fall, own, *np.bincount(bins, r)],
                [float(is_known), spread, n_own, *counts],
            ]
        )
    return np.array(rows).transpose(1, 0, 2)


def spearman(distance: Array, weight: Array) -> float:
    """Rank correlation of relative weights [n_pairs] with distances [n_pairs]; NaN where either does not vary."""
    if not len(distance):
        return np.nan
    a, b = rankdata(np.round(distance, SAME)), rankdata(np.round(weight, EQUAL))
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else np.nan


def _decay(query: NDArray[np.int64], distance: Array, weight: Array) -> tuple[float, float]:
    """Numerator and denominator of the decay rate of a head: weighted −Σ δd δlog w and Σ δd², δ within a query."""
    seen = weight > 0
    query, distance, weight = query[seen], distance[seen], weight[seen]
    if not len(query):
        return 0.0, 0.0
    share = weight / np.bincount(query, weight)[query]
    d = distance - np.bincount(query, share * distance)[query]
    logarithm = np.log(weight)
    y = logarithm - np.bincount(query, share * logarithm)[query]
    return float(-(share * d) @ y), float((share * d) @ d)


@dataclass(frozen=True)
class Head:
    """Statistics of one head of one layer, both counted from 1."""

    layer: int
    head: int
    rank: Estimate
    """Spearman's rank correlation of weight with distance."""
    rate: Estimate
    """Decay rate [1/Å]; negative if weights grow with distance."""
    own: Estimate
    """Mean weight of atoms on themselves."""
    distance: Array
    """[n_bins] middles of the bins that have pairs [Å]."""
    curve: tuple[Estimate, ...]
    """Mean relative weight of the pairs in each bin."""

    @property
    def length(self) -> Estimate:
        """Decay length [Å]."""
        return self.rate.inverse()


def heads_of(layer: int, sums: list[Array], seed: int = 0) -> list[Head]:
    """Statistics of all heads of a layer, from `sums_of` each structure. `layer` is counted from 1."""
    n_columns = max(one.shape[2] for one in sums)
    stacked = np.stack([np.pad(one, ((0, 0), (0, 0), (0, n_columns - one.shape[2]))) for one in sums])
    values = ratios(stacked[:, 0], stacked[:, 1], seed)  # [3, n_heads, n_columns]
    filled = 3 + np.flatnonzero(stacked[:, 1, 0, 3:].sum(0))
    heads = []
    for h in range(values.shape[1]):
        rank, rate, own, *curve = (Estimate(*map(float, values[:, h, k])) for k in (0, 1, 2, *filled))
        heads.append(Head(layer, h + 1, rank, rate, own, np.asarray((filled - 2.5) * BIN), tuple(curve)))
    return heads


def ratios(above: Array, below: Array, seed: int = 0) -> Array:
    """Ratios Σ_s above / Σ_s below of sums over structures [n_structures, ...], with intervals: [3, ...].

    The interval has the quantiles of `SAMPLES` bootstrap samples of the structures. It is NaN for one structure.
    """
    n, shape = len(above), above.shape[1:]
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), SAMPLES).astype(float)

    def ratio(times: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((times @ above.reshape(n, -1)) / (times @ below.reshape(n, -1)))

    value = ratio(np.ones((1, n)))[0]
    ends = np.full((2, len(value)), np.nan)
    if n > 1:
        samples = ratio(drawn)
        known = np.isfinite(samples).any(0) & np.isfinite(value)
        ends[:, known] = np.nanquantile(samples[:, known], [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], axis=0)
    return np.concatenate([value[None], ends]).reshape(3, *shape)
