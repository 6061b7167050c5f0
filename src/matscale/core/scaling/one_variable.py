"""A law in one variable: choose the form, its intervals, a held-out test, a verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from matscale.core.errors import DataError
from matscale.core.scaling.held_out import hold_out
from matscale.core.scaling.intervals import spread, t_intervals
from matscale.core.scaling.law import Law, named
from matscale.core.scaling.means import Means, refuse_mixed_costs, size_means, slice_of
from matscale.core.scaling.result import Fit, lowest_bar
from matscale.core.scaling.select import Candidate, candidates, choose
from matscale.core.scaling.tables.seen import seen_note
from matscale.core.scaling.tables.table import Table
from matscale.core.scaling.verdict import few, learning, one_variable, verdict


def fit_slice(table: Table, axis: str, laws: Sequence[Law], target: str = "loss", at: float | None = None) -> Fit:
    """The law in `axis` over the runs that differ in it alone (`at`: the value of the other variable)."""
    bar = lowest_bar(table, target)
    chosen, fixed = slice_of(table.ends(), axis, at)
    refuse_mixed_costs(chosen, axis)
    everything = size_means(chosen, axis, fixed)
    # Plateaus and the best run are judged before anything is taken out.
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


def fit_means(means: Means, laws: Sequence[Law], target: str, reasons: Sequence = ()) -> Fit:
    """The best supported of `laws` on means per size. Raises DataError for fewer than three sizes."""
    check_enough(means)
    found = candidates(means, laws)
    best, note = choose(found)
    around = spread(best.law, best.solution.theta, best.solution.frame, means.x, means.y)
    intervals = t_intervals(around, means.x, means.y)
    held = hold_out(means, best.law)
    judged = [*reasons, *one_variable(best.law, around, means, intervals, held)]
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
        notes=tuple(notes(means, best, found, note)),
        x=means.x,
        y=means.y,
        spread=around,
        held_out=tuple(held),
        table=means.table,
        fixed=means.fixed,
        candidates=tuple(found),
        facts={
            "objective": "least squares of ln loss, size means with equal weight",
            "gradient": best.solution.gradient,
        },
    )


def check_enough(means: Means) -> None:
    """Two points can be joined by a line whatever they are."""
    if len(means) < 3:
        beside = f" at {means.fixed}" if means.fixed else ""
        shown = ", ".join(f"{v:,.4g}" for v in np.exp(means.x[:, 0]))
        raise DataError(
            f"{len(means)} distinct {'value' if len(means) == 1 else 'values'} of {means.axis}{beside} ({shown}): a "
            "law needs at least 4 sizes over a decade. Train more sizes, or fit another variable (--law)."
        )


def notes(means: Means, best: Candidate, found: Sequence[Candidate], disagreement: str) -> list[str]:
    """What is no reason against the law, but has to be said."""
    said = [disagreement] if disagreement else []
    tried = {candidate.law.verdict for candidate in found}
    if "law with floor" not in tried and not few(means):
        said.append(f"floor not identifiable with {len(means)} sizes: this is no evidence that there is none")
    if best.law.floor is None and "law with floor" in tried:
        said.append("no floor was needed in this range; far beyond it one may appear")
    if int(means.counts.max()) == 1:
        said.append("one run per size: what a seed changes is not known")
    return [*said, *filter(None, [seen_note(means.table)])]
