"""Fit laws for a report: all that the runs allow, with the reason for each law that cannot be fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from matscale.core.errors import DataError, MatscaleError
from matscale.core.hosting.host import host
from matscale.core.report.records import Records
from matscale.core.scaling.comparison.compare import Comparison, compare
from matscale.core.scaling.curves.collapse import Collapse, collapses
from matscale.core.scaling.fit import Options, fit_law, joint_law, varies, ways, widest
from matscale.core.scaling.result import Fit
from matscale.core.scaling.tables.baselines import with_baselines
from matscale.core.scaling.tables.from_runs import ERRORS, Known, read_runs
from matscale.core.scaling.tables.table import Excluded, Table, groups

TERMS = ("energy", "forces", "stress")
SEVERAL = 4
"""Least number of architectures for a mixed law, which has a random offset for each architecture."""


@dataclass(frozen=True)
class Refused:
    """Law that could not be fitted, with the reason."""

    architecture: str
    way: str
    """Variable or variables of the law: `n`, `d`, `c`, `nd` or `frontier`; empty if none varies"""
    target: str
    reason: str


@dataclass(frozen=True)
class Analysis:
    """All laws of the runs in a report. If there is no table to fit, `refusal` gives the reason."""

    table: Table | None
    fits: tuple[Fit, ...] = ()
    """Laws of the compared loss, which combines errors of energy, forces and stress"""
    terms: Mapping[str, tuple[Fit, ...]] = field(default_factory=dict)
    """Laws of the errors of energy, forces and stress [eV units], by term"""
    refused: tuple[Refused, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    mixed: Fit | None = None
    """Mixed law: one exponent for all architectures and an offset for each; None for fewer than `SEVERAL`"""
    excluded: tuple[Excluded, ...] = ()
    """Runs that are used in no law, with the reason"""
    refusal: str = ""
    notes: tuple[str, ...] = ()
    collapses: Mapping[str, Collapse] = field(default_factory=dict)
    """Result of the collapse check of the training curves, by architecture"""

    def fits_in(self, axis: str) -> list[Fit]:
        """Fits of the loss in the variable `axis` alone."""
        return [fit for fit in self.fits if fit.axes == (axis,)]


def analyse(
    records: Records,
    *,
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    measure_baselines: bool = True,
    samples: int = 1000,
) -> Analysis:
    """Fit all laws that the runs allow. If there is none, the result has the reason and no error is raised."""
    folders = [run.path for run in records.runs if run.info]
    if not folders:
        return Analysis(None, excluded=records.damaged, refusal="No run has begun yet.")
    try:
        known = {run.path: Known(run.info, run.config, run.validations) for run in records.runs if run.info}
        table = read_runs(folders, {}, curves=True, known=known)
    except MatscaleError as error:
        return Analysis(None, excluded=records.damaged, refusal=str(error))
    why = "no baselines were asked for: only plateaus show whether a run learned anything"
    if baselines:
        table, why = replace(table, baselines=dict(baselines)), ""
    elif measure_baselines:
        table, why = with_baselines(table)
    checked = collapses(table)
    off = [f"the curves of {name}: {one.text}" for name, one in checked.items() if one.off]
    fits, refused = _laws(table, samples)
    terms = {}
    for term in TERMS:
        part = of_target(table, term)
        if part is not None:
            terms[term], more = _term_laws(part, term)
            refused += more
    comparisons, not_compared = _comparisons(table)
    for term in terms:
        part = of_target(table, term)
        if part is not None:
            more_compared, not_compared_of_term = _comparisons(part, term, (main_axis(table),))
            comparisons += more_compared
            not_compared += not_compared_of_term
    refused += not_compared
    mixed, not_mixed = mixed_law(table)
    refused += not_mixed
    return Analysis(
        table,
        tuple(fits),
        {term: tuple(found) for term, found in terms.items()},
        tuple(refused),
        comparisons,
        mixed,
        (*records.damaged, *table.excluded),
        notes=(*off, *filter(None, [why])),
        collapses=checked,
    )


def of_target(table: Table, term: str) -> Table | None:
    """Copy of a table whose `loss` is the error of energy, forces or stress [eV units]; None if no run measured it."""
    key = ERRORS[term]
    if key not in table.numbers:
        return None
    names = {**table.names, "loss": key}
    changed = replace(table, numbers={**table.numbers, "loss": table[key]}, names=names)
    measured = changed.keep(np.isfinite(changed["loss"]) & (changed["loss"] > 0), f"has no {term} error")
    return measured if len(measured) else None


def main_axis(table: Table) -> str:
    """Variable of figures that show a single error: parameters if they vary, else data, else compute."""
    return next((axis for axis in ("n", "d", "c") if varies(table, axis)), widest(table))


def levels(table: Table, axis: str) -> np.ndarray:
    """Index of the size of each row in the variable `axis`, smallest size first; -1 if the table does not have it."""
    if not table.has(axis):
        return np.full(len(table), -1)
    return groups(table[axis])


def _laws(table: Table, samples: int) -> tuple[list[Fit], list[Refused]]:
    fits: list[Fit] = []
    refused: list[Refused] = []
    for name in table.architectures:
        part = table.of_architecture(name)
        joint = joint_law(part, Options(samples=max(samples, 50)))
        for way in ways(part):
            _try(part, name, way, "loss", samples, fits, refused, joint)
        if not ways(part):
            refused.append(Refused(name, "", "loss", "all runs agree in N, D and C: a law needs several values."))
    return fits, refused


def _term_laws(table: Table, term: str) -> tuple[list[Fit], list[Refused]]:
    fits: list[Fit] = []
    refused: list[Refused] = []
    for name in table.architectures:
        part = table.of_architecture(name)
        axis = main_axis(table)
        if varies(part, axis):
            _try(part, name, axis, term, 0, fits, refused)
    return fits, refused


def _try(
    part: Table,
    name: str,
    way: str,
    target: str,
    samples: int,
    fits: list[Fit],
    refused: list[Refused],
    joint: Fit | None = None,
) -> None:
    try:
        fits.append(fit_law(part, way, Options(target=target, samples=max(samples, 50)), joint))
    except DataError as error:
        refused.append(Refused(name, way, target, str(error)))


def mixed_law(table: Table) -> tuple[Fit | None, list[Refused]]:
    """Fit the mixed law of all architectures in the main variable.

    Returns the law, and a list of refusals. The law is None if there are too few architectures or sizes. It is None,
    with the reason in the list, if the fit fails.
    """
    axis = main_axis(table)
    if len(table.architectures) < SEVERAL or not varies(table, axis):
        return None, []
    try:
        return fit_law(table, "mixed", Options(axis=axis)), []
    except DataError as error:
        return None, [Refused("all architectures", axis, "loss", str(error))]


def _comparisons(
    table: Table, target: str = "loss", axes: tuple[str, ...] = ("n", "d", "c")
) -> tuple[tuple[Comparison, ...], list[Refused]]:
    """Compare architectures over each variable of `axes` that varies for two of them or more; also return refusals."""
    laws = [law for law in host().laws() if law.axes == ("x",)]
    found, refused = [], []
    for axis in axes:
        names = [name for name in table.architectures if varies(table.of_architecture(name), axis)]
        if len(names) < 2:
            continue
        try:
            part = table.take(np.isin(table.words["arch"], names))
            found.append(compare(part, names, laws, axis=axis, target=target))
        except DataError as error:
            refused.append(Refused(" and ".join(names), axis, "comparison", str(error)))
    return tuple(found), refused
