"""Statistical power of a test that compares two exponents, and how many sizes or seeds would make it conclusive."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from matscale.core.scaling.means import Means

WANTED = 0.8
"""Wanted power of a test."""
MOST = 64
"""Largest number of sizes or seeds that is suggested."""


@dataclass(frozen=True)
class Settling:
    """Number of sizes or seeds that a test needs to find the observed difference with a probability of 80 %."""

    sizes: int | None
    """Sizes per architecture over the same range; None if more than 64 are needed."""
    seeds: int | None
    """Seeds per size; None if no number of seeds is enough, since sizes scatter as well, or if their noise is unknown.
    """
    text: str


def power(difference: float, error: float, freedom: float, level: float = 0.95) -> float:
    """Power of a t-test: probability that it finds a true `difference` of two exponents; `error` is its standard error.

    >>> round(power(difference=0.1, error=0.03, freedom=8), 2), round(power(0.02, 0.03, 8), 2)
    (0.83, 0.09)
    """
    if freedom <= 0 or not error > 0:
        return float("nan")
    limit, shift = stats.t.ppf(0.5 + level / 2, freedom), abs(difference) / error
    # The non-central t as a mean over quantiles of the estimated error, since scipy's function fails for large shifts.
    estimated = limit * np.sqrt(stats.chi2.ppf((np.arange(200) + 0.5) / 200, freedom) / freedom)
    return float((stats.norm.sf(estimated - shift) + stats.norm.cdf(-estimated - shift)).mean())


def power_of_equality(margin: float, error: float, freedom: float, level: float = 0.95) -> float:
    """Power of the equivalence test: probability that it finds equal exponents equal within `margin`.

    >>> round(power_of_equality(margin=0.1, error=0.03, freedom=8), 2), power_of_equality(0.02, 0.03, 8)
    (0.84, 0.0)
    """
    if freedom <= 0 or not error > 0:
        return float("nan")
    estimated = np.sqrt(stats.chi2.ppf((np.arange(200) + 0.5) / 200, freedom) / freedom)
    room = np.maximum(margin / error - stats.t.ppf(level, freedom) * estimated, 0.0)
    return float((2 * stats.norm.cdf(room) - 1).mean())


def smallest_difference(error: float, freedom: float) -> float:
    """Smallest true difference of two exponents that the test finds with probability `WANTED`.

    >>> round(smallest_difference(error=0.03, freedom=8), 2)
    0.1
    """
    if freedom <= 0 or not error > 0:
        return float("nan")
    low, high = 0.0, 1.0
    while power(high, error, freedom) < WANTED and high < 1e3:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, error, freedom) < WANTED else (low, middle)
    return high


def slope_error(scatter: float, n_sizes: int, width: float) -> float:
    """Standard error of a slope through `n_sizes` evenly spaced sizes over a range of `width` in ln x.

    >>> round(slope_error(scatter=0.05, n_sizes=6, width=np.log(1e3)), 4)
    0.0087
    """
    spread = width**2 * n_sizes * (n_sizes + 1) / (12 * (n_sizes - 1))
    return float(scatter / np.sqrt(spread))


def settling(
    difference: float,
    a: Means,
    b: Means,
    scatter: tuple[float, float],
    freedom: float,
    error: float,
    n_parameters: int = 2,
) -> Settling:
    """Number of sizes and of seeds with which the test would find a `difference` of the exponents of `a` and `b`.

    `scatter` is the standard deviation of the size means about the law of each architecture, `error` the standard error
    of the difference now. The exponent of a law with more parameters than a line is known less well than a slope; that
    ratio is assumed to stay.
    """
    if freedom <= 0 or not max(scatter) > 0 or difference == 0:
        return Settling(None, None, "these sizes do not tell how many would settle it")
    widths = [float(m.x.max() - m.x.min()) for m in (a, b)]
    slopes = [slope_error(one, len(m), width) for one, m, width in zip(scatter, (a, b), widths, strict=True)]
    wider = max(error / math.hypot(*slopes), 1.0) if n_parameters > 2 else 1.0

    def seen(n_sizes: int, noise: tuple[float, float]) -> bool:
        first, second = (wider * slope_error(one, n_sizes, width) for one, width in zip(noise, widths, strict=True))
        freedom = (
            (n_sizes - n_parameters) * (first**2 + second**2) ** 2 / (first**4 + second**4)
        )  # Welch and Satterthwaite
        return power(difference, float(np.hypot(first, second)), freedom) >= WANTED

    sizes = next((k for k in range(4, MOST + 1) if seen(k, scatter)), None)
    now = min(len(a), len(b))
    seeds = _seeds(a, b, scatter, lambda noise: seen(now, noise))
    if sizes is not None and sizes <= now:
        return Settling(sizes, None, f"{now} sizes are enough for a difference of {abs(difference):.3f}")
    by_sizes = f"{sizes} sizes per architecture" if sizes else f"more than {MOST} sizes per architecture"
    by_seeds = f", or {seeds} seeds per size" if seeds else "; more seeds alone are not enough"
    text = (
        f"a difference of {abs(difference):.3f} would be shown (power 80 %) by {by_sizes} over the same range{by_seeds}"
    )
    return Settling(sizes, seeds, text)


def _seeds(
    a: Means, b: Means, scatter: tuple[float, float], enough: Callable[[tuple[float, float]], bool]
) -> int | None:
    if not _known(a, b):
        return None
    either = float(np.nanmean([a.seed_noise, b.seed_noise]))
    noises = [m.seed_noise if np.isfinite(m.seed_noise) else either for m in (a, b)]
    per_size = float(np.mean([*a.counts, *b.counts]))
    own = [max(s**2 - noise**2 / per_size, 0.0) for s, noise in zip(scatter, noises, strict=True)]

    def with_seeds(m: int) -> tuple[float, float]:
        first, second = (float(np.sqrt(o + noise**2 / m)) for o, noise in zip(own, noises, strict=True))
        return first, second

    return next((m for m in range(int(per_size) + 1, MOST + 1) if enough(with_seeds(m))), None)


def _known(a: Means, b: Means) -> bool:
    return bool(np.isfinite(a.seed_noise) or np.isfinite(b.seed_noise))
