"""Compare the exponents of joint laws.

In a grid of sizes and data, the slope at fixed data (or fixed size) is only local if the law has a floor. Then the
exponents of the joint laws are compared instead. That of compute follows from the joint law and the measured cost
C = k N^p D^q: if each budget is spent on the best N and D, L - E falls with C to the power alpha beta / (alpha q +
beta p).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from matscale.core.errors import DataError
from matscale.core.scaling.allocation.cost_law import CostLaw, _refuse_flat, measured_cost
from matscale.core.scaling.allocation.plan import sampled_laws
from matscale.core.scaling.bootstrap import Draws
from matscale.core.scaling.comparison.difference import DOUBT, NO_TEST, NOT_SHOWN, WORTH_SEEING, Pair
from matscale.core.scaling.comparison.power_of_test import Settling, power, smallest_difference
from matscale.core.scaling.intervals import LEVEL, quantile
from matscale.core.scaling.law import Array
from matscale.core.scaling.result import Fit
from matscale.core.scaling.text import with_interval
from matscale.core.scaling.verdict import INCOMPLETE, LOCAL_SLOPE, NO_LEARNING, NOT_IDENTIFIABLE, REJECTED

HELP = {
    NO_LEARNING: "runs of {name} that learn",
    INCOMPLETE: "more sizes of {name}, over a wider range of n and d",
    NOT_IDENTIFIABLE: "more seeds of {name}, or sizes further apart",
    REJECTED: "a search for the size of {name} that deviates from the others; more runs of the same sizes do not help",
}
"""Remedy for a joint law that was refused, by its verdict."""


@dataclass(frozen=True)
class JointExponent:
    """Exponent of a variable, or of compute, by a joint law, with its interval."""

    name: str
    """Name of the exponent; for compute, words"""
    value: float
    low: float
    high: float
    freedom: float
    """Degrees of freedom of the interval"""

    @property
    def error(self) -> float:
        """Standard error, from the interval."""
        return (self.high - self.low) / 2 / quantile(LEVEL, self.freedom)

    @property
    def text(self) -> str:
        return f"{self.name} = {with_interval(self.value, self.low, self.high)}"


def exponent_along(joint: Fit, axis: str) -> JointExponent | str:
    """Exponent of `axis` by a joint law, or the reason why the law has none.

    For compute, it is that of the loss at the best n and d.
    """
    assert isinstance(joint.spread, Draws)
    if name := joint.exponent_of(axis):
        freedom = float(joint.spread.freedom[joint.law.parameters.index(name)])
        return JointExponent(name, joint.parameters[name], *joint.intervals[name], freedom)
    try:
        cost = measured_cost(joint.table)
        _refuse_flat(cost)
    except DataError as error:
        return f"the joint law of {joint.architecture} has no exponent of compute: {error}"
    laws = sampled_laws(joint.spread)
    if 2 * len(laws) < len(joint.spread.draws):
        return f"the joint law of {joint.architecture} has no best n and d, since it may not fall with both"
    alpha, beta = joint.parameters["alpha"], joint.parameters["beta"]
    ends = np.quantile(_of_compute(laws[:, 3], laws[:, 4], cost), [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    own = [exponent_along(joint, of) for of in ("n", "d")]
    errors = np.array([one.error for one in own if isinstance(one, JointExponent)])
    freedoms = np.array([one.freedom for one in own if isinstance(one, JointExponent)])
    # The derivatives of the exponent of compute by alpha and beta, up to a common factor.
    variances = (np.array([cost.p * beta**2, cost.q * alpha**2]) * errors) ** 2
    freedom = float(variances.sum() ** 2 / (variances**2 / freedoms).sum()) if variances.any() else 1.0
    value = float(_of_compute(np.array(alpha), np.array(beta), cost))
    return JointExponent("of C at the best n and d", value, float(ends[0]), float(ends[1]), freedom)


def _of_compute(alpha: Array, beta: Array, cost: CostLaw) -> Array:
    """Exponent of compute of laws with the exponents `alpha` and `beta` [b], at the best n and d."""
    return np.asarray(alpha * beta / (cost.q * alpha + cost.p * beta))


def compared(pair: Pair, joints: Mapping[str, Fit | None], fits: Mapping[str, Fit], axis: str) -> Pair:
    """Copy of `pair` with the exponents of accepted joint laws compared, if slopes of slices are only local.

    If the joint law of either architecture has a floor, slopes of slices are local, and their difference is not a
    difference of exponents. If the other architecture has no accepted joint law, the pair is then not comparable,
    unless both slices have floors.
    """
    sides = {name: joints[name] for name in (pair.first, pair.second)}
    floored = [joint for joint in sides.values() if joint is not None and joint.shows_floor]
    told = " and ".join(f"{one.told(one.law.floor or '')} for {one.architecture}" for one in floored)
    why = f"slopes of slices are local, since the joint law {floored[0].law.name} has a floor: {told}" if told else ""
    first, second = sides.values()
    if first is not None and second is not None and first.is_law and second.is_law:
        if not floored and all(fits[name].verdict != LOCAL_SLOPE for name in sides):
            return pair
        ends = [exponent_along(one, axis) for one in (first, second)]
        a, b = ends
        if isinstance(a, JointExponent) and isinstance(b, JointExponent):
            return tested_jointly(pair, a, b, first.law.name)
        if not floored:
            return pair
        return _not_comparable(
            pair, "; ".join([why, *dict.fromkeys(end for end in ends if isinstance(end, str))]), "--axis n, or --axis d"
        )
    if not floored or any(fits[name].law.floor is not None for name in sides):
        return pair
    missing = [name for name, joint in sides.items() if joint is None or not joint.is_law]
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
        return f"{name} has no joint law, since it has no grid of n and d"
    return f"the joint law of {joint.verdict_with_reasons}"


def _not_comparable(pair: Pair, why: str, helps: str) -> Pair:
    """Copy of `pair` without a test, for the reason `why`; an earlier reason of the pair is kept, too."""
    nan = float("nan")
    own = pair.reason.removeprefix(DOUBT)
    return replace(
        pair,
        difference=nan,
        interval=(nan, nan),
        standard_error=nan,
        freedom=nan,
        p=nan,
        p_adjusted=nan,
        verdict=NO_TEST,
        reason=f"{DOUBT}{why}" + (f"; also, {own}" if own else ""),
        note="",
        crossing=None,
        power=nan,
        smallest=nan,
        settling=Settling(None, None, helps),
    )


def tested_jointly(pair: Pair, first: JointExponent, second: JointExponent, form: str) -> Pair:
    """Test whether the exponents of two joint laws differ; the result is put into a copy of `pair`.

    It replaces a test of slopes at fixed data or size. The standard error and the degrees of freedom of each exponent
    come from its bootstrap; the degrees of freedom of the difference follow Satterthwaite. `form` is the name of the
    joint law.
    """
    difference = first.value - second.value
    variances, freedoms = np.array([(one.error**2, one.freedom) for one in (first, second)]).T
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
        note="",
        basis=f"{first.name} {'by' if ' ' in first.name else 'of'} the joint laws {form}",
        crossing=None,
        power=power(WORTH_SEEING, error, freedom),
        smallest=smallest_difference(error, freedom),
        settling=Settling(None, None, "more sizes of both on a grid; how many is not computed for joint laws"),
        standard_error=error,
        freedom=freedom,
    )
