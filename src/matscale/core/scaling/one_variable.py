"""Fit a law in one variable to the means of sizes: choose its form, compute intervals, test it, reach a verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from matscale.core.errors import DataError
from matscale.core.scaling.floors import floor_reasons
from matscale.core.scaling.held_out import hold_out
from matscale.core.scaling.intervals import Spread, spread, t_intervals, with_correlation, with_seed_slopes
from matscale.core.scaling.law import Law, named
from matscale.core.scaling.means import Means, refuse_mixed_costs, size_means, slice_of
from matscale.core.scaling.result import Fit, lowest_bar
from matscale.core.scaling.select import Candidate, candidates, choose
from matscale.core.scaling.solve import solve
from matscale.core.scaling.tables.seen import seen_note
from matscale.core.scaling.tables.table import Table
from matscale.core.scaling.text import counted, percent, size
from matscale.core.scaling.verdict import Reason, few, learning, one_variable, verdict

SURE = 0.05
"""p-value below which a note says that single seeds have different slopes."""
OUTLIERS = 0.002
"""Probability that some size is taken for an outlier in a table without outliers."""


def fit_slice(table: Table, axis: str, laws: Sequence[Law], target: str = "loss", at: float | None = None) -> Fit:
    """Fit a law in `axis` to runs with one value of the other variable: `at`, or the value with most sizes."""
    bar = lowest_bar(table, target)
    chosen, fixed = slice_of(table.ends(), axis, at)
    refuse_mixed_costs(chosen, axis)
    everything = size_means(chosen, axis, fixed)
    # Trigger a looks at all runs, before outliers are left out.
    reasons = learning(np.exp(everything.y), bar)
    if bar is not None and not any(reason.is_no_learning for reason in reasons):
        chosen = chosen.keep(chosen["loss"] < bar[1], f"does not beat the baseline {bar[0]} ({bar[1]:.4g})")
        everything = size_means(chosen, axis, fixed)
    try:
        return fit_means(everything, laws, target, reasons)
    except DataError as error:
        told = seen_note(table)
        if not told:
            raise
        raise DataError(f"{error} {told[0].upper()}{told[1:]}.") from None


def fit_means(means: Means, laws: Sequence[Law], target: str, reasons: Sequence[Reason] = ()) -> Fit:
    """Fit to the means of sizes the form of law that they support best. Raises DataError for fewer than three sizes."""
    check_enough(means)
    found = candidates(means, laws)
    best, note = choose(found)
    around = spread(best.law, best.solution.theta, best.solution.frame, means.x, means.y, means.noise, means.weights)
    plain = around
    around = with_seed_slopes(with_correlation(around, means.x, means.y), means.seed_slopes, means.x)
    intervals = t_intervals(around, means.x, means.y)
    held = hold_out(means, best.law)
    judged = [*reasons, *one_variable(best.law, around, means, intervals, held)]
    judged = judged or floor_reasons(plain, means)
    return Fit(
        law=best.law,
        axes=(means.axis,),
        points="size means",
        architecture=str(means.table.words["arch"][0]),
        target=target,
        theta=best.solution.theta,
        frame=best.solution.frame,
        parameters=named(best.law.plain(best.solution.theta, best.solution.frame)),
        intervals=intervals,
        verdict=verdict(best.law, judged, intervals),
        reasons=tuple(judged),
        notes=(*notes(means, best, found, note, laws), *noise_notes(means, plain)),
        x=means.x,
        y=means.y,
        spread=around,
        held_out=tuple(held),
        table=means.table,
        fixed=means.fixed,
        candidates=tuple(found),
        facts={
            "objective": "least squares of ln loss, size means "
            + ("with equal weight" if means.weights is None else "weighted by the scatter of their seeds"),
            "gradient": best.solution.gradient,
        },
    )


def check_enough(means: Means) -> None:
    """Raises DataError for fewer than three sizes, since a line fits any two points."""
    if len(means) < 3:
        beside = f" at {means.fixed}" if means.fixed else ""
        shown = ", ".join(f"{v:,.4g}" for v in np.exp(means.x[:, 0]))
        raise DataError(
            f"{len(means)} distinct {'value' if len(means) == 1 else 'values'} of {means.axis}{beside} ({shown}): a "
            "law needs at least 4 sizes over a decade. Train more sizes, or fit another variable (--law)."
        )


def notes(
    means: Means, best: Candidate, found: Sequence[Candidate], disagreement: str, laws: Sequence[Law]
) -> list[str]:
    """Notes on a fit that do not count against the law."""
    said = [disagreement] if disagreement else []
    tried = {candidate.law.verdict for candidate in found}
    if all(law.floor is None for law in laws):
        said.append("no form with a floor was tried")
    elif "law with floor" not in tried and not few(means):
        said.append(f"floor not identifiable with {len(means)} sizes: this is no evidence against a floor")
    if best.law.floor is None and "law with floor" in tried:
        said.append(_on_floors(means, best, next(c for c in found if c.law.verdict == "law with floor")))
    if int(means.counts.max()) == 1:
        said.append("one run per size: the effect of the seed is unknown")
    return [*said, *filter(None, [seen_note(means.table)])]


def _on_floors(means: Means, best: Candidate, floor: Candidate) -> str:
    """Note on a floor that the data may have although the chosen form has none."""
    if floor.extrapolation < 0.5 * best.extrapolation:
        return (
            f"a floor is possible: with it, the next size is predicted to within {floor.extrapolation:.1%}, without it "
            f"to within {best.extrapolation:.1%}"
        )
    return "no floor is needed in this range; there may be one far beyond it"


def noise_notes(means: Means, spread: Spread) -> list[str]:
    """Notes on outliers, and on noise that depends on the seed or the size."""
    law, said = spread.law, []
    name = law.exponents[0]
    if means.with_outliers is not None:
        before = means.with_outliers
        again = solve(law, before.x, before.y, weights=before.weights)
        value = float(law.plain(again.theta, again.frame)[name])
        listed = ", ".join(f"{source} ({percent(float(np.expm1(off)))})" for source, off in means.outlier_runs[:6])
        runs = counted(len(means.outlier_runs), "outlier")
        them = "it" if len(means.outlier_runs) == 1 else "them"
        said.append(f"{runs} beyond 5 σ of the other seeds left out: {listed}; with {them} {name} = {value:.3g}")
    for k, off in far_sizes(means, spread):
        rest = means.without(k)
        again = solve(law, rest.x, rest.y, weights=rest.weights)
        value = float(law.plain(again.theta, again.frame)[name])
        at = f"{means.axis} = {size(float(np.exp(means.x[k, 0])))}"
        with np.errstate(over="ignore"):  # the others may say nothing about this size, so that it is off by any factor
            factor = float(np.expm1(off))
        said.append(f"outlier kept: {at} ({percent(factor)}); without it {name} = {value:.3g}")
    if means.seed_slopes.p < SURE:
        said.append(
            f"each seed has a slope of its own (p = {means.seed_slopes.p:.2g}): the interval of {name} allows for it"
        )
    if means.noise.slope * means.decades * np.log(10) > np.log(4) and not means.noise.is_even:
        factor = float(np.exp(0.5 * means.noise.slope * np.ptp(means.x[:, 0])))
        said.append(
            f"losses of seeds scatter {factor:.2g} times more at the largest size than at the smallest: in fits, sizes "
            "that scatter more have less weight"
        )
    return said


def far_sizes(means: Means, spread: Spread) -> list[tuple[int, float]]:
    """Find a size whose mean is an outlier: [(index, ln(loss / loss by the law of the other sizes))], or an empty list.

    In tables without outliers, chance produces one in 1 of 500.
    """
    freedom = spread.freedom - 1
    if freedom < 2:
        return []
    root = np.ones(len(means)) if spread.weights is None else np.sqrt(spread.weights)
    x = means.x - spread.frame.x
    columns = spread.law.derivatives(spread.theta, x) * root[:, None]
    residual = (means.y - spread.frame.y - spread.law.value(spread.theta, x)) * root
    spare = np.maximum(1 - np.einsum("kp,pk->k", columns, np.linalg.pinv(columns, rcond=1e-12)), 1e-9)
    off = residual / spare
    squares = np.maximum(float(residual @ residual) - residual * off, 1e-300)
    score = np.abs(off) * np.sqrt(spare * freedom / squares)
    k = int(np.argmax(score))
    far = 2 * float(stats.t.sf(score[k], freedom)) * len(means) < OUTLIERS and abs(off[k]) > 0.005 * root[k]
    return [(k, float(off[k] / root[k]))] if far else []
