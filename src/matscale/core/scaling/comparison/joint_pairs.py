"""Compare the exponents of joint laws.

In a grid of sizes and data, the slope at fixed data (or fixed size) is only local if the law has a floor. Then the
exponents of the joint laws are compared instead.
"""

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
    """Test whether the exponents of two joint laws differ; the result is put into a copy of `pair`.

    It replaces a test of slopes at fixed data or size. The standard error and the degrees of freedom of each exponent
    come from its bootstrap; the degrees of freedom of the difference follow Satterthwaite.
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
    """Standard error of an exponent from its bootstrap interval, and its degrees of freedom."""
    assert isinstance(fit.spread, Draws)
    freedom = float(fit.spread.freedom[fit.law.parameters.index(name)])
    low, high = fit.intervals[name]
    return (high - low) / 2 / float(stats.t.ppf(0.5 + fit.level / 2, freedom)), freedom
