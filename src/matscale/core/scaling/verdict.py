"""Verdict on a fitted law. It follows from reasons against the law; each reason comes from one of nine triggers.

| trigger | fires when |
|---|---|
| a | the best run does not beat every baseline, or more than 30 % of the sizes lie within 2 % of one value (plateau) |
| b | fewer than 4 sizes, or less than a decade from smallest to largest; or an interval so wide that f can never fire |
| c | the interval of the exponent contains 0, or is wider than the exponent; or the loss rises |
| d | leaving out one size moves the exponent by more than its interval's half-width, or by more than 30 % |
| e | curvature is significant at 1 % (or the signs of the residuals run in blocks) and no form with a break fits |
| f | the largest held-out size lies outside its 95 % prediction interval |
| g | the joint law contradicts the slopes of the slices of the grid, all slices together |
| h | an optimum lies at the edge of the values that were tried |
| i | the slope may hold in the range of the points only: the joint law has a floor, or a floor is not excluded |

In a joint law, d and e look along each variable. d leaves out its values in turn and fires only if runs of one value
lie off the law together; e fires only if the bend changes the slope by a tenth of the interval's half-width.

The most serious reason decides the verdict, in this order: `no learning` if even the best run has learned nothing (a),
`not identifiable` (a, c), `rejected` (e, f, g), `not identifiable` (d), `incomplete design` (b, h), `local slope` (i).
Without a reason, the verdict is that of the form: `law`, `law with floor` or `broken law`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from matscale.core.scaling.held_out import HeldOut
from matscale.core.scaling.intervals import Spread, wide_enough
from matscale.core.scaling.law import Array, Law
from matscale.core.scaling.means import Means
from matscale.core.scaling.solve import refine
from matscale.core.scaling.text import counted, percent, size

LAWS = ("law", "law with floor", "broken law")
LOCAL_SLOPE, REJECTED, INCOMPLETE = "local slope", "rejected", "incomplete design"
NOT_IDENTIFIABLE, NO_LEARNING = "not identifiable", "no learning"
VERDICTS = (*LAWS, LOCAL_SLOPE, REJECTED, INCOMPLETE, NOT_IDENTIFIABLE, NO_LEARNING)
REFUSED = (REJECTED, INCOMPLETE, NOT_IDENTIFIABLE)
"""Verdicts that refuse a law, but allow statements about its exponents with widened intervals."""
WORDS = {
    **dict.fromkeys("ac", NOT_IDENTIFIABLE),
    **dict.fromkeys("efg", REJECTED),
    "d": NOT_IDENTIFIABLE,
    **dict.fromkeys("bh", INCOMPLETE),
    "i": LOCAL_SLOPE,
}
"""Verdict that each trigger leads to; the trigger that decides first comes first."""
SIGNIFICANT = 0.01
DECADE = 0.95
"""Range of sizes, in decades, that counts as one decade: sizes of a ladder rarely fall exactly on their targets."""


@dataclass(frozen=True)
class Reason:
    """Reason against a law: a sentence, and the trigger (a to i) that it comes from."""

    trigger: str
    """Letter of the trigger, a to i."""
    text: str
    is_no_learning: bool = False
    """Whether the sentence says that even the best model has learned nothing."""
    widening: float = 1.0
    """Factor by which intervals must grow to cover the misfit that the reason describes."""

    def __str__(self) -> str:
        return f"{self.trigger}: {self.text}"


def verdict(law: Law, reasons: list[Reason], intervals: Mapping[str, tuple[float, float]]) -> str:
    """Verdict that follows from the reasons against a law, one of `VERDICTS`.

    Without a reason, it is the verdict of the form. A floor whose interval contains 0 counts as no floor.
    """
    if any(reason.is_no_learning for reason in reasons):
        return NO_LEARNING
    fired = {reason.trigger for reason in reasons}
    if fired:
        return next(word for trigger, word in WORDS.items() if trigger in fired)
    has_floor = law.floor is not None and intervals[law.floor][0] > 0
    return "law" if law.verdict == "law with floor" and not has_floor else law.verdict


def learning(losses: Array, bar: tuple[str, float] | None) -> list[Reason]:
    """Reasons against a law whose models learned nothing: their best loss beats no baseline, or losses form a plateau.

    This is trigger a of the verdict. `losses` has one value per size, lower for better models; `bar` is the name and
    error of the best baseline.
    """
    if bar is not None and losses.min() >= bar[1]:
        text = f"the best loss ({losses.min():.4g}) does not beat the baseline {bar[0]} ({bar[1]:.4g})"
        return [Reason("a", text, is_no_learning=True)]
    value, share, is_best = plateau(losses)
    if share <= 0.3:
        return []
    text = f"{share:.0%} of the sizes lie within 2 % of {value:.4g}: a plateau, not a trend"
    return [Reason("a", text, is_no_learning=is_best)]


def plateau(losses: Array) -> tuple[float, float, bool]:
    """Find a plateau: a level near the largest losses at which several models stay.

    Returns (level, share of the losses within 2 % of it, whether the best model is among them). Losses that agree at
    the lower end are a floor, not a plateau. If the largest loss is less than 1.5 times the smallest, the law may only
    be weak; there is then a plateau only if all losses agree.
    """
    near = np.abs(np.log(losses[:, None] / losses)) <= 0.02
    top = np.array([(losses > 1.02 * value).mean() <= 0.2 for value in losses])
    best = int(np.argmax(near.sum(axis=1) * top))
    everywhere, weak = bool(near[best].all()), losses.max() < 1.5 * losses.min()
    if near[best].sum() < 2 or not top[best] or (weak and not everywhere):
        return float(losses[best]), 0.0, False
    return float(losses[best]), float(near[best].mean()), bool(near[best][np.argmin(losses)])


def one_variable(
    law: Law, spread: Spread, means: Means, intervals: dict[str, tuple[float, float]], held: list[HeldOut]
) -> list[Reason]:
    """Reasons against a law in one variable, from triggers b to f of the verdict."""
    reasons = few(means)
    if reasons:
        return reasons
    name = law.exponents[0]
    value = float(law.plain(spread.theta, spread.frame)[name])
    low, high = intervals[name]
    reasons += flat(name, value, low, high) or rising(law, spread, means)
    reasons += unstable(law, spread, means, name, low, high)
    reasons += bent(law, spread, means, (high - low) / 2)
    return reasons + missed(held)


def few(means: Means) -> list[Reason]:
    return too_few(means.axis, len(means), means.decades, "point" if means.axis == "c" else "size")


def too_few(
    axis: str,
    n: int,
    decades: float,
    what: str = "size",
    least: int = 4,
    needed: str = "a law needs 4, and a test of it more",
) -> list[Reason]:
    """Reasons against a law with fewer than `least` sizes, or with sizes that span less than a decade (trigger b)."""
    reasons = [Reason("b", f"{counted(n, what)} in {axis}; {needed}")] if n < least else []
    if decades < DECADE:
        reasons.append(Reason("b", f"{axis} spans {decades:.1f} decades; a law needs one"))
    return reasons


def flat(name: str, value: float, low: float, high: float) -> list[Reason]:
    if low <= 0 <= high:
        return [Reason("c", f"the interval of {name} holds 0")]
    if high - low > abs(value):
        return [Reason("c", f"the interval of {name} is wider than {name} itself")]
    return []


def rising(law: Law, spread: Spread, means: Means) -> list[Reason]:
    """Reason against a law whose loss rises with the variable, so that larger models are worse (trigger c)."""
    ends = np.array([[means.x.min()], [means.x.max()]]) - spread.frame.x
    first, last = law.value(spread.theta, ends)
    if not means.falls or last <= first:
        return []
    return [Reason("c", f"the loss rises with {means.axis}: more of it makes the models worse")]


def unstable(law: Law, spread: Spread, means: Means, name: str, low: float, high: float) -> list[Reason]:
    """Reason against a law whose exponent changes too much without one of the sizes (trigger d).

    `is_large` defines "too much". The half-width of the interval is about two standard errors, with Student's factor
    for few sizes.
    """
    if len(means) - 1 <= law.n_parameters:
        return []
    x, y = means.x - spread.frame.x, means.y - spread.frame.y
    weights = (1.0 - np.eye(len(means))) * (1.0 if spread.weights is None else spread.weights)
    ends = refine(law, np.tile(spread.theta, (len(means), 1)), x, y, weights=weights)
    value = float(law.plain(spread.theta, spread.frame)[name])
    moved = np.asarray(law.plain(ends, spread.frame)[name]) - value
    worst = int(np.argmax(np.abs(moved)))
    if not is_large(float(moved[worst]), value, low, high):
        return []
    left = size(float(np.exp(means.x[worst, 0])))
    text = f"without {means.axis} = {left}, {name} changes by {percent(float(moved[worst]) / value)}"
    return [Reason("d", text, widening=wide_enough(float(moved[worst]), (high - low) / 2))]


def is_large(change: float, value: float, low: float, high: float) -> bool:
    """Whether a change of an exponent is larger than 30 %, or than the half-width of its interval.

    A half-width below 2 % of the exponent counts as 2 %.
    """
    return abs(change) > min(max((high - low) / 2, 0.02 * abs(value)), 0.3 * abs(value))


def bent(law: Law, spread: Spread, means: Means, half: float) -> list[Reason]:
    """Reason against a law from which the points bend away (trigger e).

    Points bend away if a term in (ln x)² is significant, or if the residuals change sign too rarely. `half` is the
    half-width of the exponent's interval, which has to grow by the change of slope between the ends of the range.
    """
    if spread.freedom < 2:
        return []
    x, y = means.x - spread.frame.x, means.y - spread.frame.y
    root = np.ones(len(y)) if spread.weights is None else np.sqrt(spread.weights)
    residual = (y - law.value(spread.theta, x)) * root
    columns = np.column_stack([law.derivatives(spread.theta, x), x[:, 0] ** 2]) * root[:, None]
    coefficients, _, rank, _ = np.linalg.lstsq(columns, residual, rcond=1e-10)
    left = residual - columns @ coefficients
    changes = abs(float(coefficients[-1])) * float(np.ptp(x[:, 0]))
    widening = 1 + changes / half if half > 0 else 1.0
    freedom = spread.freedom - 1
    if rank == columns.shape[1] and left @ left > 0:
        f = (residual @ residual - left @ left) / (left @ left / freedom)
        p = float(stats.f.sf(f, 1, freedom))
        if p < SIGNIFICANT:
            return [Reason("e", f"the points bend away from the {law.name} law (p = {p:.2g})", widening=widening)]
    p = _runs_of_signs(residual)
    if p < SIGNIFICANT:
        return [Reason("e", f"the residuals run in blocks of one sign (p = {p:.2g})", widening=widening)]
    return []


def _runs_of_signs(residual: Array) -> float:
    """p-value of the number of changes of sign among residuals: small if there are fewer changes than chance gives.

    The normal approximation of Wald & Wolfowitz (1940) is used.
    """
    signs = residual > 0
    n, up = len(signs), int(signs.sum())
    if n < 10 or up in (0, n):
        return 1.0
    runs = 1 + int((signs[1:] != signs[:-1]).sum())
    mean = 1 + 2 * up * (n - up) / n
    variance = (mean - 1) * (mean - 2) / (n - 1)
    return float(stats.norm.cdf((runs + 0.5 - mean) / np.sqrt(max(variance, 1e-12))))


def missed(held: list[HeldOut]) -> list[Reason]:
    """Reason against a law if the largest held-out size lies outside its 95 % prediction interval (trigger f).

    If the interval is so wide that the test cannot fail, the reason is one of trigger b. Only the largest size counts:
    among several sizes, chance often puts one outside its 95 % interval.
    """
    if not held:
        return []
    last = held[-1]
    at = ", ".join(f"{axis} = {size(value)}" for axis, value in last.at.items())
    if last.covered and last.can_fail:
        return []
    if last.covered:
        ends = f"{last.low:.2g} to {last.high:.2g}"
        return [Reason("b", f"no check: at {at} the smaller sizes allow {ends}, a wider range than their own")]
    text = f"at {at} the smaller sizes predict {percent(last.error)}, outside their 95 % interval"
    return [Reason("f", text, widening=last.widening)]
