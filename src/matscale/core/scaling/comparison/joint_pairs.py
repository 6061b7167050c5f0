"""Compare the exponents of two joint laws, for grids in which floors make the slopes of slices local."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import stats

from matscale.core.scaling.bootstrap import Draws
from matscale.core.scaling.comparison.difference import NOT_SHOWN, WORTH_SEEING, Pair
from matscale.core.scaling.comparison.power_of_test import Settling, power, smallest_difference
from matscale.core.scaling.intervals import LEVEL, quantile
from matscale.core.scaling.result import Fit


def tested_jointly(pair: Pair, first: Fit, second: Fit, axis: str) -> Pair:
    """Copy of `pair` in which the exponents of the two joint laws are tested instead of the slopes of slices.

    Each exponent has a standard error, from its bootstrap interval, and degrees of freedom; the degrees of freedom of
    the difference follow Satterthwaite.
    """
    name = first.exponent_of(axis)
    difference = first.parameters[name] - second.parameters[name]
    errors, freedoms = np.array([_error(first, name), _error(second, name)]).T
    variances = errors**2
    error = float(np.sqrt(variances.sum()))
    freedom = max(1, int(variances.sum() ** 2 / (variances**2 / freedoms).sum())) if error > 0 else 1
    half = quantile(LEVEL, freedom) * error
    p = 2 * float(stats.t.sf(abs(difference) / max(error, 1e-300), freedom))
    return replace(
        pair,
        difference=difference,
        interval=(difference - half, difference + half),
        p=p,
        p_adjusted=p,
        verdict=NOT_SHOWN,
        reason="",
        basis=f"{name} of the joint laws {first.law.name}",
        crossing=None,
        power=power(WORTH_SEEING, error, freedom),
        smallest=smallest_difference(error, freedom),
        settling=Settling(None, None, "more sizes of both on a grid; how many is not computed for joint laws"),
        standard_error=error,
        freedom=freedom,
    )


def _error(fit: Fit, name: str) -> tuple[float, float]:
    """Standard error of an exponent, and its degrees of freedom."""
    assert isinstance(fit.spread, Draws)
    freedom = float(fit.spread.freedom[fit.law.parameters.index(name)])
    low, high = fit.intervals[name]
    return (high - low) / 2 / float(stats.t.ppf(0.5 + fit.level / 2, freedom)), freedom
