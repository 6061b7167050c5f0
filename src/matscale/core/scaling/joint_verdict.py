"""Reasons against a law in several variables: triggers b to h of the verdict.

The triggers are explained in `matscale.core.scaling.verdict`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from matscale.core.scaling.bootstrap import Draws, between_sizes, take_apart
from matscale.core.scaling.held_out import HeldOut
from matscale.core.scaling.intervals import wide_enough
from matscale.core.scaling.law import Array, Law, named
from matscale.core.scaling.means import size_means
from matscale.core.scaling.solve import HUBER, Solution, refine
from matscale.core.scaling.tables.table import Table, groups
from matscale.core.scaling.text import percent, size
from matscale.core.scaling.verdict import SIGNIFICANT, Reason, flat, is_large, missed, too_few

OFF = 0.05
"""p-value, over all values of a variable, below which the runs of one value are taken to lie off the law together."""
SEEN = 0.1
"""Least change of the slope along a bend that counts, as a share of the half-width of the exponent's interval."""
STEP = 0.3
"""The same for a value of a variable that lies off the law: its offset over half the range of the variable's ln."""


def joint_reasons(
    law: Law,
    solution: Solution,
    draws: Draws,
    runs: Table,
    x: Array,
    y: Array,
    intervals: dict[str, tuple[float, float]],
    held: list[HeldOut],
) -> list[Reason]:
    """Reasons against a law in several variables, from triggers b to h of the verdict."""
    few = _few(law, runs)
    if few:
        return few
    values = named(law.plain(solution.theta, solution.frame))
    found = [reason for name in law.exponents for reason in flat(name, values[name], *intervals[name])]
    for k, axis in enumerate(law.axes):
        level = groups(runs[axis])
        p, offsets, scatter = _offsets(law, solution, x, y, draws.noise.size, level)
        found += _unstable(law, solution, x, y, p, k, level, values, intervals) or _off(
            law, x, p, offsets, scatter, k, level, intervals
        )
        found += _bent(law, solution, x, y, k, level, intervals)
    found += missed(held)
    found += contradicted(law, draws, runs)
    edge = [name for name in law.exponents if name in ("alpha", "beta") and not 0.02 < abs(values[name]) < 2.0]
    return found + [
        Reason("h", f"{name} = {values[name]:.2g} lies at the edge of the search (0.02 to 2)") for name in edge
    ]


def _few(law: Law, runs: Table) -> list[Reason]:
    found = []
    for axis, least in zip(law.axes, (4, 3, 3)):
        n = int(groups(runs[axis]).max()) + 1
        decades = float(np.log10(runs[axis].max() / runs[axis].min()))
        if axis != "e":
            found += too_few(axis, n, decades, least=least, needed=f"a joint law needs {least}")
    return found


def _unstable(
    law: Law,
    solution: Solution,
    x: Array,
    y: Array,
    p: Array,
    axis: int,
    level: NDArray[np.int64],
    values: dict[str, float],
    intervals: dict[str, tuple[float, float]],
) -> list[Reason]:
    """Reason against the law, if an exponent depends on one value of a variable (trigger d of the verdict).

    `level` numbers the values of the variable with index `axis`; they are left out in turn. If few values determine
    floor and exponent together, the exponents of a true law change a lot, too. A change therefore counts only if runs
    of one value lie off the law together, at 5 % over all values of the variable; `p` is that of each value.
    """
    if p.min() >= OFF:
        return []
    at, below = x - solution.frame.x, y - solution.frame.y
    weights = np.stack([(level != k).astype(float) for k in range(len(p))])
    ends = refine(law, np.tile(solution.theta, (len(p), 1)), at, below, delta=HUBER, weights=weights)
    plain, found = law.plain(ends, solution.frame), dict[float, Reason]()
    of = [_named(law, x, axis, level == k) for k in range(len(p))]
    for name in law.exponents:
        moved = np.asarray(plain[name]) - values[name]
        low, high = intervals[name]
        worst = int(np.argmax(np.abs(moved)))
        if is_large(float(moved[worst]), values[name], low, high):
            text = f"without {of[worst]}, {name} changes by {percent(float(moved[worst]) / values[name])}"
            text += f"; runs of {of[int(p.argmin())]} lie off the law together (p = {p.min():.1g})"
            far = abs(float(moved[worst])) / max(high - low, 1e-300)
            found[far] = Reason("d", text, widening=wide_enough(float(moved[worst]), (high - low) / 2))
    return [found[max(found)]] if found else []


def _off(
    law: Law,
    x: Array,
    p: Array,
    offsets: Array,
    scatter: Array,
    axis: int,
    level: NDArray[np.int64],
    intervals: dict[str, tuple[float, float]],
) -> list[Reason]:
    """Reason against the law, if the runs of one value of a variable lie off it together (trigger e of the verdict).

    Faults at both ends of a variable bend the law, but leaving out either of them changes no exponent much. `p`,
    `offsets` and `scatter` are those of `_offsets`. Means of many runs show offsets that change nothing: one counts if
    it exceeds the scatter of single runs, and the share `STEP` of the half-width of the exponent's interval.
    """
    low, high = intervals[law.exponents[min(axis, len(law.exponents) - 1)]]
    changes = 2 * np.abs(offsets) / float(np.ptp(x[:, axis]))
    half = max((high - low) / 2, 1e-300)
    counts = (changes > STEP * half) & (np.abs(offsets) > scatter) & (p < SIGNIFICANT)
    if not counts.any():
        return []
    at = int(np.argmin(np.where(counts, p, np.inf)))
    text = f"runs of {_named(law, x, axis, level == at)} lie {percent(float(np.expm1(offsets[at])))} off the law"
    return [Reason("e", f"{text} together (p = {p[at]:.1g})", widening=1 + float(changes[at]) / half)]


def _named(law: Law, x: Array, axis: int, runs: NDArray[np.bool_]) -> str:
    return f"{law.axes[axis]} = {size(float(np.exp(x[runs, axis].mean())))}"


def _offsets(
    law: Law, solution: Solution, x: Array, y: Array, sizes: NDArray[np.int64], level: NDArray[np.int64]
) -> tuple[Array, Array, Array]:
    """p-values, over all values of a variable, of the offset in ln L that runs of each value share, by a t-test.

    The offsets follow, and the standard deviation of single runs about the law with each offset. The law is linearised.
    Values that alone determine some parameter have a p-value of 1 at least. `sizes` and `level` number the model sizes
    and the values of the variable. The noise is what is left with the offset: without it, a value far off would look
    like scatter.
    """
    at = x - solution.frame.x
    known = _orthonormal(law.derivatives(solution.theta, at))
    residual = y - solution.frame.y - law.value(solution.theta, at)
    # Huber's fit leaves in the residual a small part that the parameters could take up; the t-test assumes none.
    residual = residual - known @ (known.T @ residual)
    counts = np.bincount(sizes)
    offsets, off, freedoms, scatter = np.zeros((4, int(level.max()) + 1))
    for k in range(len(off)):
        own = (level == k).astype(float)
        free = own - known @ (known.T @ own)  # the part of an offset that the parameters cannot take up
        if free @ free < 1e-6 * own.sum():
            continue  # only these runs determine some parameter
        weights = free / (free @ free)
        offsets[k] = weights @ residual
        share = np.bincount(sizes, own) / counts
        # An offset of whole sizes costs a degree of freedom between sizes, any other offset one within sizes.
        of_sizes = between_sizes(law) + bool((share == share.round()).all())
        noise = take_apart(residual - offsets[k] * free, sizes, law.n_parameters + 1, of_sizes)
        scatter[k] = np.sqrt(noise.between + noise.within)
        (variance,), (freedoms[k],) = noise.of_sums(weights[None])
        off[k] = abs(offsets[k]) / np.sqrt(max(variance, 1e-300))
    return np.asarray(2 * len(off) * stats.t.sf(off, np.maximum(freedoms, 1))), offsets, scatter


def _orthonormal(columns: Array) -> Array:
    """Orthonormal basis [k, r] of the space of `columns` [k, p]."""
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    return u[:, s > 1e-10 * s[0]]


def _bent(
    law: Law,
    solution: Solution,
    x: Array,
    y: Array,
    axis: int,
    level: NDArray[np.int64],
    intervals: dict[str, tuple[float, float]],
) -> list[Reason]:
    """Reason against the law, if the mean residuals of values of a variable bend away (trigger e of the verdict).

    `level` numbers the values of the variable with index `axis`. The test is a t-test of a term in (ln x)². Means
    of many runs show bends that change no exponent, so that a bend must also change the slope by the share `SEEN` of
    the half-width of the exponent's interval.
    """
    counts = np.bincount(level)
    residual = y - solution.frame.y - law.value(solution.theta, x - solution.frame.x)
    mean = np.bincount(level, residual) / counts
    at = np.bincount(level, x[:, axis] - solution.frame.x[axis]) / counts
    columns = np.column_stack([np.ones_like(at), at, at**2])
    freedom = len(mean) - 3
    if freedom < 2:
        return []
    rest = mean - columns[:, :2] @ np.linalg.lstsq(columns[:, :2], mean, rcond=None)[0]
    bend = np.linalg.lstsq(columns, mean, rcond=None)[0]
    left = mean - columns @ bend
    squares, fewer = float(left @ left), float(rest @ rest)
    f = (fewer - squares) / max(squares / freedom, 1e-300)
    p = float(stats.f.sf(f, 1, freedom))
    low, high = intervals[law.exponents[min(axis, len(law.exponents) - 1)]]  # exponents have the order of the variables
    changes = abs(float(bend[2])) * float(np.ptp(at))
    if p >= SIGNIFICANT or changes < SEEN * (high - low) / 2:
        return []
    widening = 1 + changes / ((high - low) / 2) if high > low else 1.0
    text = f"sizes in {law.axes[axis]} bend away from the {law.name} law (p = {p:.1g})"
    return [Reason("e", text, widening=widening)]


def contradicted(law: Law, draws: Draws, runs: Table) -> list[Reason]:
    """Reason against a joint law, if it contradicts the slopes at fixed n or fixed d (trigger g of the verdict).

    Runs that differ in one variable only are a slice of the grid; each slice has a slope. The mean slope over all
    slices is tested, since the steepest of twenty slices differs from any law. The variance of this mean has three
    parts: the scatter between slices, the scatter of points about a line (which is common to slices of the same sizes),
    and the uncertainty of the law.
    """
    if law.axes != ("n", "d"):
        return []
    found = []
    for axis in law.axes:
        slices = _slices(law, draws, runs, axis)
        if not slices:
            continue
        slope, implied, error = (float(np.mean([getattr(one, key) for one in slices])) for key in _SLOPES)
        between = float(np.std([one.slope - one.implied for one in slices], ddof=1)) if len(slices) > 1 else 0.0
        spread = float(np.std(np.mean([one.samples for one in slices], axis=0)))
        freedom = min([len(slices) - 1] * (len(slices) > 1) + [one.n_sizes - 2 for one in slices])
        off = float(np.sqrt(error**2 + between**2 / len(slices) + spread**2))
        # In a table without scatter, as from a formula, any difference would count: hence at least 1 % of the slope.
        limit = float(stats.t.ppf(0.975, freedom)) * max(off, 0.01 * abs(slope))
        if abs(slope - implied) > limit:
            at = f"{len(slices)} values of {'d' if axis == 'n' else 'n'}" if len(slices) > 1 else slices[0].fixed
            text = f"at {at} the slope in {axis} is {slope:.3f}, the joint law says {implied:.3f}"
            found.append(Reason("g", text, widening=wide_enough(slope - implied, limit)))
    return found


@dataclass(frozen=True)
class _Slice:
    """Slice of a grid: at least four points that differ in one variable only."""

    fixed: str
    n_sizes: int
    slope: float
    """Slope of a straight line fitted to ln L"""
    error: float
    implied: float
    """Slope of a straight line through the predictions of the joint law at the same points"""
    samples: Array
    """The same slope for each bootstrap sample of the joint law"""


_SLOPES = ("slope", "implied", "error")


def _slices(law: Law, draws: Draws, runs: Table, axis: str) -> list[_Slice]:
    other = "d" if axis == "n" else "n"
    level = groups(runs[other])
    found = []
    for k in np.flatnonzero(np.bincount(level) >= 4):
        part = runs.take(level == k)
        means = size_means(part, axis)
        if len(means) < 4:
            continue
        beside = float(np.log(part[other]).mean())
        points = [means.x[:, 0], np.full(len(means), beside)]
        joint = np.stack(points if axis == "n" else points[::-1], axis=-1) - draws.frame.x
        at = means.x[:, 0] - means.x.mean()
        slopes_of = at / (at @ at)
        slope = float(slopes_of @ means.y)
        left = means.y - means.y.mean() - slope * at
        error = float(np.sqrt(left @ left / (len(at) - 2) / (at @ at)))
        implied = float(law.value(draws.theta, joint) @ slopes_of)
        samples = law.value(draws.draws[:200], joint) @ slopes_of
        fixed = f"{other} = {size(float(np.exp(beside)))}"
        found.append(_Slice(fixed, len(means), slope, error, implied, samples))
    return found
