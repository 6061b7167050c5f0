"""Compare the exponents of joint laws.

In a grid of sizes and data, the slope at fixed data (or fixed size) is only local if the law has a floor. Then the
exponents of the joint laws are compared instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy import stats

from matscale.core.scaling.bootstrap import Draws
from matscale.core.scaling.comparison.difference import NO_TEST, NOT_SHOWN, WORTH_SEEING, Pair
from matscale.core.scaling.comparison.power_of_test import Settling, power, smallest_difference
from matscale.core.scaling.intervals import LEVEL, quantile
from matscale.core.scaling.result import Fit
from matscale.core.scaling.verdict import INCOMPLETE, LOCAL_SLOPE, NO_LEARNING, NOT_IDENTIFIABLE, REJECTED

HELP = {
    NO_LEARNING: "runs of {name} that learn",
    INCOMPLETE: "more sizes of {name}, over a wider range of n and d",
    NOT_IDENTIFIABLE: "more seeds of {name}, or sizes further apart",
    REJECTED: "a search for the size of {name} that is off the others; more runs of the same sizes do not help",
}
"""Remedy for a joint law that was refused, by its verdict."""


def compared(pair: Pair, joints: Mapping[str, Fit | None], fits: Mapping[str, Fit], axis: str) -> Pair:
    """Copy of `pair` in which joint laws are compared where they stand and slices are local slopes.

    A floor in the joint law of either side makes slopes of slices local: their difference is none of exponents. If the
    other side has no joint law that stands, the pair is then not comparable, nor is it over compute.
    """
    sides = {name: joints[name] for name in (pair.first, pair.second)}
    floored = [joint for joint in sides.values() if joint is not None and joint.shows_floor]
    first, second = sides.values()
    if first is not None and second is not None and first.is_law and second.is_law and first.exponent_of(axis):
        is_local = floored or any(fits[name].verdict == LOCAL_SLOPE for name in sides)
        return tested_jointly(pair, first, second, axis) if is_local else pair
    if not floored or any(fits[name].law.floor is not None for name in sides):
        return pair
    told = " and ".join(f"{one.architecture} a floor of {one.told(one.law.floor or '')}" for one in floored)
    why = f"slopes of slices are local, since the joint law {floored[0].law.name} shows for {told}"
    missing = [name for name, joint in sides.items() if joint is None or not joint.is_law]
    if not missing:
        return _not_comparable(pair, f"{why}; a joint law has no exponent of {axis}", "--axis n, or --axis d")
    return _not_comparable(
        pair,
        f"{why}; " + ", and ".join(_missing(name, sides[name]) for name in missing),
        "; ".join(
            HELP[joint.verdict].format(name=name)
            if (joint := sides[name]) is not None
            else f"{name} on a grid: at least 4 sizes, each on 3 amounts of data"
            for name in missing
        ),
    )


def _missing(name: str, joint: Fit | None) -> str:
    if joint is None:
        return f"{name} has no joint law, for want of a grid of n and d"
    return f"the joint law of {name} is {joint.verdict} ({'; '.join(str(reason) for reason in joint.reasons)})"


def _not_comparable(pair: Pair, why: str, helps: str) -> Pair:
    nan = float("nan")
    return replace(
        pair,
        difference=nan,
        interval=(nan, nan),
        standard_error=nan,
        freedom=nan,
        p=nan,
        p_adjusted=nan,
        verdict=NO_TEST,
        reason=f"the exponents cannot be compared: {why}",
        note="",
        crossing=None,
        power=nan,
        smallest=nan,
        settling=Settling(None, None, helps),
    )


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
