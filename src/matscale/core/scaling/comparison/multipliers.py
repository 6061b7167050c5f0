"""Compute multipliers: how many times as much of a resource one architecture needs as another for the same loss.

Each law is inverted: it then gives the compute (hours, parameters, data) at which it reaches a loss. A multiplier is
the ratio of the amounts of two architectures. The uncertainty of the laws gives its interval: random samples of both
laws are inverted, too, and the ratios of independent samples are taken. Samples of a joint law are those of its
bootstrap. Samples of a law in one variable are drawn with the covariance of its parameters. The quantiles of the ratios
are widened to Student's t with Satterthwaite's degrees of freedom: samples of Student's t on both sides would count the
effect of few sizes twice. docs/laws.md reports the coverage of the intervals of multipliers.

Each architecture's law has the form that its own points support. Multipliers are given at losses within the points of
both architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import stats

from matscale.core.errors import DataError
from matscale.core.scaling.allocation.cost_law import _refuse_flat, measured_cost
from matscale.core.scaling.allocation.plan import needed, optimal_size, reached, sampled_laws
from matscale.core.scaling.bootstrap import Draws
from matscale.core.scaling.comparison.cheaper import BEST, Multiplier, Point
from matscale.core.scaling.comparison.difference import satterthwaite
from matscale.core.scaling.intervals import LEVEL, Spread, quantile, spread, with_correlation, with_seed_slopes
from matscale.core.scaling.law import Array, Frame, Law
from matscale.core.scaling.means import SEEDS, Means
from matscale.core.scaling.result import Fit
from matscale.core.scaling.solve import refine, solve
from matscale.core.scaling.tables.table import SAME, Table
from matscale.core.scaling.verdict import LOCAL_SLOPE, REFUSED

WORDS = {"c": "FLOPs", "hours": "hours", "n": "parameters", "d": "data"}
"""Name of each quantity in sentences."""
ALONG = {"c": ("c", "hours", "n"), "n": ("c", "hours", "n"), "d": ("c", "hours", "d")}
"""Resources whose multipliers are computed, by the variable of the comparison."""
SAMPLES = 1000
POINTS = 21
"""Number of losses at which a curve of multipliers is computed."""
REACH = 3 * np.log(10.0)
"""Distance beyond the points, in ln, up to which a law is inverted; an amount beyond that counts as infinite."""
FAR = 200.0
"""ln of an amount so large that only the floor of a law is left."""


@dataclass(frozen=True)
class ArchitectureLaws:
    """Architecture in a comparison, with its law in one variable and, if there is one, its joint law."""

    own: Fit
    """Law in one variable, in the form that the points of this architecture support"""
    means: Means
    joint: Fit | None
    """Joint law, if it is accepted"""
    is_floored: bool
    """Whether the joint law replaces the law in one variable, because the joint law has a floor"""
    number: int
    """Index among the architectures; it seeds the random samples of the laws"""
    known: dict[str, Needs | str] = field(default_factory=dict, repr=False, compare=False)
    """Inverted law of each quantity that was asked for, or the reason why the law cannot be inverted"""

    @property
    def name(self) -> str:
        return self.own.architecture

    @property
    def hindrance(self) -> str:
        """Reason why the law in one variable cannot be inverted; empty if there is none."""
        return self.own.verdict_with_reasons if any(one.trigger in "ac" for one in self.own.reasons) else ""

    def needs(self, quantity: str) -> Needs | str:
        """Amount of `quantity` needed for a loss, as an inverted law; or the reason why the law cannot be inverted.

        The quantity `BEST` stands for compute at the best n and d.
        """
        if quantity not in self.known:
            self.known[quantity] = _at_best(self) if quantity == BEST else _of_slice(self, quantity)
        return self.known[quantity]


@dataclass(frozen=True)
class Needs:
    """Inverted law of an architecture: the amount of a quantity that it needs for a loss.

    It holds the law itself and b random samples of the law, which give the uncertainty.
    """

    losses: tuple[float, float]
    """ln of the lowest and of the highest loss among the points of the law"""
    of: Callable[[Array], Array]
    """Function that takes ln of m losses [m] and returns ln of the amounts [1 + b, m]; row 0 is the law itself.

    An amount is infinite where the law never reaches the loss.
    """
    bottoms: Array
    """ln of the floor of the law and of each sample [1 + b]; -inf without a floor"""
    freedom: float
    """Degrees of freedom of the uncertainty of the law"""
    law: str = ""
    """Law in words: `joint law nd`, `law power in c`"""


def multipliers(
    a: ArchitectureLaws, b: ArchitectureLaws, axis: str, fixed: str, at_loss: Sequence[float]
) -> tuple[Multiplier, ...]:
    """Ratios of the amounts that `a` and `b` need for the same loss: compute, and quantities that grow with `axis`.

    The multiplier of compute at the best n and d is added if both architectures have a joint law.
    """
    found = []
    hindrance = ", and ".join(filter(None, (a.hindrance, b.hindrance)))
    for quantity in ALONG[axis]:
        sides = [_amounts(one.means.table, quantity) for one in (a, b)]
        column = "c" if quantity == "hours" else quantity  # hours are derived from FLOPs
        if not all(one.means.table.has(column) for one in (a, b)):
            continue
        multiplier = Multiplier(a.name, b.name, quantity, _words(a.means.table, quantity), fixed)
        reason = hindrance or next((side for side in sides if isinstance(side, str)), "")
        reason = reason or _unfair(a.means.table, b.means.table, quantity)
        needs = [] if reason else [one.needs(quantity) for one in (a, b)]
        found.append(_between(multiplier, needs, reason, at_loss, _notes(a, b, multiplier.what)))
    if axis == "c" and a.joint is not None and b.joint is not None:
        multiplier = Multiplier(a.name, b.name, "c", _words(a.means.table, "c"), BEST)
        found.append(_between(multiplier, [one.needs(BEST) for one in (a, b)], "", at_loss, ()))
    return tuple(found)


# Sentences ------------------------------------------------------------------------------------------------------------


# Quantities -----------------------------------------------------------------------------------------------------------


def _words(table: Table, quantity: str) -> str:
    """Word for a quantity in sentences; a column that the user mapped to compute keeps its own name."""
    name = table.names.get("c", "flops")
    if quantity == "c" and "hours" in name.lower():
        return "hours"
    is_flops = quantity != "c" or name.lower() in ("c", "compute") or "flop" in name.lower()
    return WORDS[quantity] if is_flops else name


def _amounts(table: Table, quantity: str) -> Array | str:
    """Amount of a quantity in each run [k], or the reason why it is unknown; hours count the time of one device."""
    if quantity != "hours":
        return table[quantity] if table.has(quantity) else f"the table has no column {quantity}"
    if table.names.get("c") != "flops":
        return "no hours are recorded"
    speeds = {str(run["run"]): float(run["flops_per_s"]) for run in table.facts.get("speeds", ())}
    reached = np.array([speeds.get(run, np.nan) for run in table.words["run"].tolist()])
    if not np.isfinite(reached).all() or not table.has("c") or not (reached > 0).all():
        return "no hours are recorded"
    return np.asarray(table["c"] / reached / 3600.0)


def _unfair(a: Table, b: Table, quantity: str) -> str:
    """Reason why the hours of two architectures cannot be compared; empty if they can be."""
    if quantity != "hours" and _words(a, quantity) != "hours":
        return ""
    grounds = [_grounds(table) for table in (a, b)]
    if len(grounds[0] | grounds[1]) <= 1:
        return ""
    told = "; ".join(f"{table.words['arch'][0]} on {', '.join(sorted(g))}" for table, g in zip((a, b), grounds))
    return f"hours were spent on different devices, threads or arithmetic: {told}"


def _grounds(table: Table) -> set[str]:
    """Devices of the runs, each with its number of threads and its arithmetic."""
    mine = set(table.words["run"].tolist())
    return {
        f"{run['device']}{', ' + str(run['precision']) if run['precision'] else ''}"
        for run in table.facts.get("speeds", ())
        if str(run["run"]) in mine
    }


def _notes(a: ArchitectureLaws, b: ArchitectureLaws, what: str) -> tuple[str, ...]:
    """Notes on the weaknesses of a multiplier."""
    notes = []
    if what == "hours" and not _grounds(a.means.table):
        notes.append("hours come from the table, which does not say whether devices and threads are the same")
    refused = [one for one in (a, b) if one.own.verdict in REFUSED and not one.is_floored]
    if refused:
        told = " and ".join(one.own.verdict_with_reasons for one in refused)
        notes.append(f"{told}: the interval allows for the misfit of the law")
    return tuple(notes)


# Inverted laws -------------------------------------------------------------------------------------------------------


def _of_slice(one: ArchitectureLaws, quantity: str) -> Needs | str:
    """Invert the law in one variable, with `quantity` as its variable; returns the reason if it cannot be inverted.

    If the architecture uses its joint law instead, the joint law is inverted, with the other variables fixed.
    """
    means, law, rng = one.means, one.own.law, np.random.default_rng(one.number)
    at = _grown(means, quantity, one.name)
    if isinstance(at, str):
        return at
    losses = (float(means.y.min()), float(means.y.max()))
    if one.is_floored and one.joint is not None:
        # Compute at fixed data grows with n, which is the variable of the joint law.
        variable = means.axis if means.axis in one.joint.axes else "n"
        x = means.x[:, 0] if variable == means.axis else _grown(means, variable, one.name)
        if not isinstance(x, str):
            return _followed(_of_joint(one.joint, means.table, variable, x, losses, rng), x, at)
    around = _along(one, quantity, at)
    if around.freedom <= 0:
        return f"{one.name} has too few sizes for the parameters of its law"
    theta = _samples(around, at, rng)
    bottoms = law.value(theta, FAR - around.frame.x[None])[:, 0] + around.frame.y
    has_floor = one.own.verdict in ("law with floor", LOCAL_SLOPE) and one.own.shows_floor
    bottoms = bottoms if has_floor else np.full(len(theta), -np.inf)
    ends = (float(at.min()), float(at.max()))
    turned = _turned(law, theta, around.frame, 0, np.zeros(1), ends)
    return Needs(losses, turned, bottoms, around.freedom, f"law {law.name} in {quantity}")


def _grown(means: Means, quantity: str, name: str) -> Array | str:
    """Mean ln of a quantity over the runs of each size [k], or the reason why it does not grow with size."""
    values = _amounts(means.table, quantity)
    assert isinstance(values, np.ndarray)
    logs = np.log(values)
    at = np.bincount(means.size, logs, len(means)) / np.bincount(means.size, minlength=len(means))
    what = _words(means.table, quantity)
    if np.diff(at).min() <= 0:
        return f"the {what} of {name} do not grow with {means.axis} from size to size"
    if quantity != "hours" and float(np.abs(logs - at[means.size]).max()) > SEEDS:
        return f"runs of {name} of one size differ in {what}"
    return np.asarray(at)


def _along(one: ArchitectureLaws, quantity: str, at: Array) -> Spread:
    """Refit the law in one variable with another quantity as the variable, and widen its errors by the same factor."""
    moved = replace(one.means, axis=quantity, x=at[:, None], with_outliers=None)
    law, weights = one.own.law, moved.weights
    found = solve(law, moved.x, moved.y, weights=weights)
    around = spread(law, found.theta, found.frame, moved.x, moved.y, moved.noise, weights)
    around = with_seed_slopes(with_correlation(around, moved.x, moved.y), moved.seed_slopes, moved.x)
    return around.stretched(one.own.widening)


def _samples(around: Spread, at: Array, rng: np.random.Generator) -> Array:
    """Parameters of a law [p] and of b random samples of it, with its covariance, stacked as [1 + b, p].

    The samples are drawn from Student's t with the covariance of the law. Since a law is linear in its parameters only
    near the fit, each sample of the linearised law is replaced by the law that lies closest to it at the points.
    """
    values, vectors = np.linalg.eigh(around.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    drawn = rng.standard_normal((SAMPLES, len(values))) @ root.T
    law, x = around.law, at[:, None] - around.frame.x
    y = law.value(around.theta, x) + drawn @ law.derivatives(around.theta, x).T
    nearest = refine(law, np.tile(around.theta, (SAMPLES, 1)), x, y, weights=around.weights, steps=40, tolerance=1e-6)
    return np.vstack([around.theta, nearest])


def _followed(needs: Needs, x: Array, at: Array) -> Needs:
    """Inverted law for another quantity, which follows from the variable of `needs` by interpolation.

    ln of the quantity is `at` [k] where ln of the variable is `x` [k], and linear between and beyond these points.
    """
    far = np.array([-1.0, 1.0]) * FAR
    slopes = [(at[1] - at[0]) / (x[1] - x[0]), (at[-1] - at[-2]) / (x[-1] - x[-2])]
    knots = np.concatenate([[x[0] + far[0]], x, [x[-1] + far[1]]])
    values = np.concatenate([[at[0] + slopes[0] * far[0]], at, [at[-1] + slopes[1] * far[1]]])

    def of(losses: Array) -> Array:
        needed = needs.of(losses)
        return np.where(np.isfinite(needed), np.interp(needed, knots, values), needed)

    return replace(needs, of=of)


def _of_joint(
    joint: Fit, table: Table, variable: str, x: Array, losses: tuple[float, float], rng: np.random.Generator
) -> Needs:
    """Invert a joint law in one variable, of the sizes `x`; the others have the values of the runs in `table`."""
    assert isinstance(joint.spread, Draws)
    law, column = joint.law, joint.axes.index(variable)
    samples = joint.spread.draws
    theta = law.bounded(np.vstack([joint.theta, samples[rng.integers(len(samples), size=SAMPLES)]]))
    held = np.array([float(np.log(table[axis]).mean()) for axis in joint.axes])
    far = held.copy()
    far[column] = FAR
    bottoms = law.value(theta, (far - joint.frame.x)[None])[:, 0] + joint.frame.y
    ends = (float(x.min()), float(x.max()))
    turned = _turned(law, theta, joint.frame, column, held, ends)
    return Needs(losses, turned, bottoms, float(joint.spread.freedom.min()), f"joint law {law.name}")


def _turned(
    law: Law, theta: Array, frame: Frame, column: int, held: Array, ends: tuple[float, float]
) -> Callable[[Array], Array]:
    """Invert b laws with parameters `theta` [b, p] in the variable number `column`; the others are fixed at `held`.

    The result takes ln of m losses [m] and returns ln of the variable [b, m].
    """
    grid = np.linspace(ends[0] - REACH, ends[1] + REACH, 300)
    x = np.tile(held, (len(grid), 1))
    x[:, column] = grid
    # A sample whose loss does not fall never reaches a lower loss.
    falling = np.minimum.accumulate(law.value(theta, x - frame.x) + frame.y, axis=1)

    def of(losses: Array) -> Array:
        return np.stack([np.interp(-losses, -one, grid, left=-np.inf, right=np.inf) for one in falling])

    return of


def _at_best(one: ArchitectureLaws) -> Needs | str:
    """Invert the joint law at the best n and d: it gives the least compute that reaches a loss.

    Losses are limited to those whose best n and d lie within the runs. Returns the reason if the law cannot be
    inverted.
    """
    joint = one.joint
    assert joint is not None
    assert isinstance(joint.spread, Draws)
    try:
        cost = measured_cost(joint.table)
        _refuse_flat(cost)
    except DataError as error:
        return f"{joint.architecture}: {error}"
    samples = sampled_laws(joint.spread, joint.spread.draws)
    best = np.array([[joint.parameters[name] for name in ("E", "A", "B", "alpha", "beta")]])
    if len(samples) == 0 or not (best[:, 1:] > 0).all():
        return f"the joint law of {joint.architecture} does not fall with both n and d"
    laws = np.vstack([best, samples])
    rows = np.concatenate([[0], np.random.default_rng(one.number).integers(1, len(laws), size=SAMPLES)])
    c = np.geomspace(float(joint.table["c"].min()), float(joint.table["c"].max()), 200)
    each = np.repeat(best, len(c), axis=0)
    n, lost = optimal_size(each, c, cost), np.log(reached(each, c, cost))
    inside = np.ones(len(c), dtype=bool)
    for axis, amounts in (("n", n), ("d", cost.data(c, n))):
        low, high = joint.range[axis]
        inside &= (amounts >= low) & (amounts <= high)
    if not inside.any():
        return f"the best n and d of {joint.architecture} lie outside its runs at every loss"
    losses = (float(lost[inside].min()), float(lost[inside].max()))
    with np.errstate(divide="ignore"):
        bottoms = np.log(laws[rows, 0])

    def of(logs: Array) -> Array:
        return np.stack([np.log(needed(float(np.exp(log)), laws, cost))[rows] for log in logs], axis=1)

    return Needs(losses, of, bottoms, float(joint.spread.freedom.min()), f"joint law {joint.law.name}")


# Ratios ---------------------------------------------------------------------------------------------------------------


def _between(
    empty: Multiplier, needs: Sequence[Needs | str], reason: str, at_loss: Sequence[float], notes: tuple[str, ...]
) -> Multiplier:
    """Compute a multiplier at losses within the points of both architectures: `empty` with its points filled in.

    `needs` has the inverted law of each architecture, or the reason why it is missing.
    """
    reason = reason or next((side for side in needs if isinstance(side, str)), "")
    if reason:
        return replace(empty, reason=reason)
    a, b = (side for side in needs if isinstance(side, Needs))
    names = (empty.first, empty.second)
    floors = [float(side.bottoms[0]) for side in (a, b)]
    higher = int(np.argmax(floors))
    floor = (
        (names[higher], *_ends((a, b)[higher].bottoms, (a, b)[higher].freedom)) if np.isfinite(floors[higher]) else None
    )
    low, high = max(a.losses[0], b.losses[0], max(floors) + SAME), min(a.losses[1], b.losses[1])
    if low >= high:
        told = ", ".join(
            f"{name} {np.exp(side.losses[0]):.4g} to {np.exp(side.losses[1]):.4g}" for name, side in zip(names, (a, b))
        )
        return replace(empty, floor=floor, reason=f"there is no loss that both have points for: {told}")
    inside = [loss for loss in at_loss if loss > 0 and low - SAME <= np.log(loss) <= high + SAME]
    logs = np.concatenate([np.linspace(low, high, POINTS), np.log(np.array(inside, dtype=float))])
    needed = a.of(logs), b.of(logs)
    freedoms = satterthwaite(_variances(needed[0]), _variances(needed[1]), a.freedom, b.freedom)
    with np.errstate(invalid="ignore"):
        ratios = needed[0] - needed[1]  # neither reaches the loss: inf - inf is NaN, which is left out
    points = [
        Point(float(np.exp(log)), *_ends(column, float(freedom)))
        for log, column, freedom in zip(logs, ratios.T, freedoms)
    ]
    asked = tuple(replace(point, loss=loss) for point, loss in zip(points[POINTS:], inside))
    outside = tuple(
        (loss, _beyond(loss, names, (a, b), floors)) for loss in dict.fromkeys(at_loss) if loss not in inside
    )
    laws = (a.law, b.law)
    return replace(
        empty, points=tuple(points[:POINTS]), asked=asked, floor=floor, notes=notes, outside=outside, laws=laws
    )


def _beyond(loss: float, names: tuple[str, str], sides: tuple[Needs, Needs], floors: Sequence[float]) -> str:
    """Reason why there is no multiplier at a loss: it is outside the points of an architecture, or below its floor."""
    log = float(np.log(loss)) if loss > 0 else -np.inf
    told = [
        f"outside the points of {name}: from {np.exp(side.losses[0]):.4g} to {np.exp(side.losses[1]):.4g}"
        for name, side in zip(names, sides)
        if not side.losses[0] - SAME <= log <= side.losses[1] + SAME
    ]
    told = told or [f"below the floor of {name}" for name, floor in zip(names, floors) if log <= floor + 2 * SAME]
    return " and ".join(told)


def _variances(logs: Array) -> Array:
    """Variances [m] of samples [1 + b, m], from the quantiles that lie a standard deviation off in a normal law."""
    ends = np.quantile(logs[1:], stats.norm.cdf([-1.0, 1.0]), axis=0, method="inverted_cdf")
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nan_to_num((ends[1] - ends[0]) / 2, nan=FAR, posinf=FAR) ** 2)


def _ends(logs: Array, freedom: float) -> tuple[float, float, float]:
    """Value and interval (value, low, high) from logarithms [1 + b]: of the value itself, then of b samples."""
    samples = logs[1:][~np.isnan(logs[1:])]
    value = float(logs[0])
    ends = np.array([value, value])
    if len(samples):
        ends = np.quantile(samples, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], method="inverted_cdf")
    factor = quantile(LEVEL, freedom) / quantile(LEVEL, np.inf)
    with np.errstate(over="ignore"):
        # A value that is infinite itself has no distance to the ends.
        low, high = (end if np.isinf(value) else value + factor * (end - value) for end in ends)
        return float(np.exp(value)), float(np.exp(min(low, value))), float(np.exp(max(high, value)))
