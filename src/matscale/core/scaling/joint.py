"""Fit a law in several variables to single runs: Huber's objective, a bootstrap for the intervals, a verdict."""

from __future__ import annotations

import numpy as np

from matscale.core.errors import DataError
from matscale.core.scaling.bootstrap import bootstrap
from matscale.core.scaling.held_out import hold_out_cells
from matscale.core.scaling.joint_verdict import joint_reasons
from matscale.core.scaling.law import Array, Law, named
from matscale.core.scaling.means import not_held, size_means
from matscale.core.scaling.result import Fit, lowest_bar
from matscale.core.scaling.solve import HUBER, Solution, solve
from matscale.core.scaling.tables.seen import seen_note
from matscale.core.scaling.tables.table import AXES, Table, groups
from matscale.core.scaling.text import counted, percent
from matscale.core.scaling.verdict import learning, verdict


def fit_joint(
    table: Table, law: Law, target: str = "loss", *, samples: int = 1000, seed: int = 0, at: str = "last"
) -> Fit:
    """Fit a law in several variables to the runs of a table. Raises DataError if the runs are too few.

    `at` says which validations of a run are used: last, best or all.
    """
    runs = table.ends(at)
    missing = [axis for axis in law.axes if not runs.has(axis)]
    if missing:
        wanted = ", ".join(f"{axis} ({AXES.get(axis, 'a column')})" for axis in missing)
        raise DataError(f"The law {law.name} needs {wanted} for every row. Map the columns with --map.")
    reasons = learning(np.exp(size_means(runs, law.axes[0]).y), bar := lowest_bar(table, target))
    if bar is not None and not any(reason.is_no_learning for reason in reasons):
        runs = runs.keep(runs["loss"] < bar[1], f"does not beat the baseline {bar[0]} ({bar[1]:.4g})")
    x = np.log(np.stack([runs[axis] for axis in law.axes], axis=-1))
    y = np.log(runs["loss"])
    _check_enough(law, x)
    solution = solve(law, x, y, HUBER)
    sizes = groups(runs[law.axes[0]])
    draws = bootstrap(law, solution, x, y, sizes, samples=samples, seed=seed)
    intervals = draws.intervals()
    held = hold_out_cells(law, runs, x, y)
    reasons = [*reasons, *joint_reasons(law, solution, draws, runs, x, y, intervals, held)]
    return Fit(
        law=law,
        axes=law.axes,
        points="runs",
        architecture=str(runs.words["arch"][0]),
        target=target,
        theta=solution.theta,
        frame=solution.frame,
        parameters=named(law.plain(solution.theta, solution.frame)),
        intervals=intervals,
        verdict=verdict(law, reasons, intervals),
        reasons=tuple(reasons),
        notes=tuple(_notes(law, runs, y, solution, x)),
        x=x,
        y=y,
        spread=draws,
        held_out=tuple(held),
        table=runs,
        facts={
            "objective": f"sum of Huber({HUBER:g}) of ln loss over runs",
            "objective value": solution.objective,
            "gradient": solution.gradient,
            "starts": solution.n_starts,
            "starts that agree": solution.n_agreeing,
            "bootstrap samples": samples,
        },
    )


def _check_enough(law: Law, x: Array) -> None:
    distinct = [len(np.unique(np.round(column, 2))) for column in x.T]
    if len(x) <= law.n_parameters + 1 or min(distinct) < 2:
        counts = ", ".join(f"{axis} {n}" for n, axis in zip(distinct, law.axes))
        raise DataError(
            f"{counted(len(x), 'run')} (distinct sizes: {counts}) are too few for the {law.n_parameters} parameters of "
            f"the law {law.name}. Train a grid: at least 4 sizes of the model, each on 3 sizes of the data."
        )


def _notes(law: Law, runs: Table, y: Array, solution: Solution, x: Array) -> list[str]:
    residual = y - solution.frame.y - law.value(solution.theta, x - solution.frame.x)
    spread = 1.4826 * float(np.median(np.abs(residual)))
    far = np.flatnonzero(np.abs(residual) > 5 * spread) if spread > 1e-9 else np.array([], dtype=int)
    notes = []
    if len(far):
        keep = np.setdiff1d(np.arange(len(y)), far)
        again = solve(law, x[keep], y[keep], HUBER)
        values = law.plain(again.theta, again.frame)
        listed = ", ".join(f"{runs.words['source'][k]} ({percent(float(np.expm1(residual[k])))})" for k in far[:6])
        values_without = ", ".join(f"{name} = {float(values[name]):.3g}" for name in law.exponents)
        them = "it" if len(far) == 1 else "them"
        notes.append(f"{counted(len(far), 'outlier')} beyond 5 σ kept: {listed}; without {them} {values_without}")
    if solution.gradient > 1e-4:
        notes.append(
            f"the search ended with a relative gradient of {solution.gradient:.1g}: the last digits are uncertain"
        )
    if len(set(runs.words["seed"].tolist())) < 2:
        notes.append("one seed: the effect of the seed is unknown")
    if law.axes == ("n", "d") and runs.has("s") and float((runs["s"] / runs["d"]).max()) > 4.5:
        most = float((runs["s"] / runs["d"]).max())
        notes.append(
            f"up to {most:.0f} epochs: repeated structures help less than new ones, or do harm; see --law repetition "
            "and --law overfitting"
        )
    return [*notes, *not_held(runs, law.axes), *filter(None, [seen_note(runs)])]
