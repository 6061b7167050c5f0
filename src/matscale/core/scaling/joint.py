"""A law in several variables, on the runs themselves: Huber's objective, a bootstrap over runs, a verdict."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from matscale.core.errors import DataError
from matscale.core.scaling.bootstrap import Draws, bootstrap
from matscale.core.scaling.digits import percent, size
from matscale.core.scaling.held_out import HeldOut
from matscale.core.scaling.law import Array, Law, named
from matscale.core.scaling.means import size_means, slice_of
from matscale.core.scaling.result import Fit, lowest_bar
from matscale.core.scaling.solve import HUBER, Solution, refine, solve
from matscale.core.scaling.table import AXES, Table, groups
from matscale.core.scaling.verdict import DECADE, SIGNIFICANT, Reason, flat, is_large, learning, missed, verdict


def fit_joint(
    table: Table, law: Law, target: str = "loss", *, samples: int = 1000, seed: int = 0, at: str = "last"
) -> Fit:
    """`law` on one point per run (`at`: its last or best step, or all). Raises DataError if they cannot carry it."""
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
    held = _held_out(law, runs, x, y)
    reasons = [*reasons, *_reasons(law, solution, draws, runs, x, y, intervals, held)]
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
        verdict=verdict(law, reasons),
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
        counts = ", ".join(f"{n} of {axis}" for n, axis in zip(distinct, law.axes))
        raise DataError(
            f"{len(x)} runs with {counts} cannot carry the {law.n_parameters} parameters of the law {law.name}. Train "
            "a grid: at least 4 sizes of the model, each on 3 sizes of the data."
        )


# Reasons ------------------------------------------------------------------------------------------------------------


def _reasons(
    law: Law,
    solution: Solution,
    draws: Draws,
    runs: Table,
    x: Array,
    y: Array,
    intervals: dict[str, tuple[float, float]],
    held: list[HeldOut],
) -> list[Reason]:
    few = _few(law, runs)
    if few:
        return few
    values = named(law.plain(solution.theta, solution.frame))
    found = [reason for name in law.exponents for reason in flat(name, values[name], *intervals[name])]
    found += _unstable(law, solution, x, y, groups(runs[law.axes[0]]), values, intervals)
    found += _bent(law, solution, draws, x, y)
    found += missed(held)
    found += _contradicted(law, draws, runs)
    edge = [name for name in law.exponents if name in ("alpha", "beta") and not 0.02 < abs(values[name]) < 2.0]
    return found + [
        Reason("h", f"{name} = {values[name]:.2g} lies at the edge of the search (0.02 to 2)") for name in edge
    ]


def _few(law: Law, runs: Table) -> list[Reason]:
    found = []
    for axis, least in zip(law.axes, (4, 3, 3)):
        n = int(groups(runs[axis]).max()) + 1
        decades = float(np.log10(runs[axis].max() / runs[axis].min()))
        if axis == "e":
            continue
        if n < least:
            found.append(Reason("b", f"{n} sizes in {axis}; a joint law needs {least}"))
        if decades < DECADE:
            found.append(Reason("b", f"{axis} spans {decades:.1f} decades; a law needs one"))
    return found


def _unstable(
    law: Law,
    solution: Solution,
    x: Array,
    y: Array,
    sizes: NDArray[np.int64],
    values: dict[str, float],
    intervals: dict[str, tuple[float, float]],
) -> list[Reason]:
    """Trigger d: every size of the first variable left out in turn."""
    at, below = x - solution.frame.x, y - solution.frame.y
    weights = np.stack([(sizes != g).astype(float) for g in range(int(sizes.max()) + 1)])
    ends = refine(law, np.tile(solution.theta, (len(weights), 1)), at, below, delta=HUBER, weights=weights)
    found = []
    plain = law.plain(ends, solution.frame)
    for name in law.exponents:
        moved = np.asarray(plain[name]) - values[name]
        low, high = intervals[name]
        worst = int(np.argmax(np.abs(moved)))
        if is_large(float(moved[worst]), values[name], low, high):
            left = size(float(np.exp(x[sizes == worst, 0].mean())))
            change = percent(float(moved[worst]) / values[name])
            found.append(Reason("d", f"without {law.axes[0]} = {left}, {name} changes by {change}"))
    return found


def _bent(law: Law, solution: Solution, draws: Draws, x: Array, y: Array) -> list[Reason]:
    """Trigger e: the mean residual of each size, against (ln x)² of that size."""
    size = draws.noise.size
    counts = np.bincount(size)
    residual = y - solution.frame.y - law.value(solution.theta, x - solution.frame.x)
    mean = np.bincount(size, residual) / counts
    at = np.bincount(size, x[:, 0] - solution.frame.x[0]) / counts
    columns = np.column_stack([np.ones_like(at), at, at**2])
    freedom = len(mean) - 3
    if freedom < 2:
        return []
    rest = mean - columns[:, :2] @ np.linalg.lstsq(columns[:, :2], mean, rcond=None)[0]
    left = mean - columns @ np.linalg.lstsq(columns, mean, rcond=None)[0]
    squares, fewer = float(left @ left), float(rest @ rest)
    f = (fewer - squares) / max(squares / freedom, 1e-300)
    p = float(stats.f.sf(f, 1, freedom))
    return [Reason("e", f"sizes bend away from the {law.name} law (p = {p:.1g})")] if p < SIGNIFICANT else []


def _contradicted(law: Law, draws: Draws, runs: Table) -> list[Reason]:
    """Trigger g: the slope of each slice of the grid, against what the joint law says of the same points."""
    if law.axes != ("n", "d"):
        return []
    found = []
    for axis in law.axes:
        part, fixed = slice_of(runs, axis)
        means = size_means(part, axis)
        if len(means) < 4:
            continue
        other = np.log(part["d" if axis == "n" else "n"]).mean()
        points = [means.x[:, 0], np.full(len(means), other)]
        joint = np.stack(points if axis == "n" else points[::-1], axis=-1) - draws.frame.x
        slope, error = _line(means.x[:, 0], means.y)
        implied = _line(means.x[:, 0], law.value(draws.theta, joint))[0]
        samples = law.value(draws.draws, joint)
        spread = float(np.std([_line(means.x[:, 0], row)[0] for row in samples[:200]]))
        t = float(stats.t.ppf(0.975, max(len(means) - 2, 1)))
        if abs(slope - implied) > t * np.hypot(error, spread) and abs(slope - implied) > 0.02 * abs(slope):
            found.append(
                Reason(
                    "g",
                    f"at {fixed or 'all points'} the slope in {axis} is {slope:.3f}, the joint law says {implied:.3f}",
                )
            )
    return found


def _line(x: Array, y: Array) -> tuple[float, float]:
    """Slope of a straight line and its standard error."""
    at = x - x.mean()
    slope = float(at @ y / (at @ at))
    left = y - y.mean() - slope * at
    return slope, float(np.sqrt(left @ left / max(len(x) - 2, 1) / (at @ at)))


# Held out, outliers -------------------------------------------------------------------------------------------------


def _held_out(law: Law, runs: Table, x: Array, y: Array, shown: int = 8) -> list[HeldOut]:
    """The top half-decade of compute (of N D where it is not known), predicted from the rest; the furthest last."""
    effort = np.log(runs["c"]) if runs.has("c") else x[:, :2].sum(axis=1)
    top = effort > effort.max() - 0.5 * np.log(10.0)
    rest = ~top
    if rest.sum() <= 2 * law.n_parameters or any(len(np.unique(np.round(c[rest], 2))) < 3 for c in x.T):
        return []
    found = solve(law, x[rest], y[rest], HUBER)
    around = bootstrap(law, found, x[rest], y[rest], groups(np.exp(x[rest, 0])), samples=300)
    order = np.flatnonzero(top)[np.argsort(effort[top], kind="stable")][-shown:]
    at = x[order]
    predicted = law.value(found.theta, at - found.frame.x) + found.frame.y
    (low, high), (low_80, high_80) = around.band(at, 0.95), around.band(at, 0.8)
    return [
        HeldOut(
            at={axis: float(np.exp(at[j, a])) for a, axis in enumerate(law.axes)},
            predicted=float(np.exp(predicted[j])),
            found=float(np.exp(y[k])),
            low=float(np.exp(low[j])),
            high=float(np.exp(high[j])),
            covered_80=bool(low_80[j] <= y[k] <= high_80[j]),
        )
        for j, k in enumerate(order)
    ]


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
        without = ", ".join(f"{name} = {float(values[name]):.3g}" for name in law.exponents)
        notes.append(f"{len(far)} outliers beyond 5 σ stay in: {listed}; without them {without}")
    if solution.gradient > 1e-4:
        notes.append(
            f"the search ended with a relative slope of {solution.gradient:.1g}: take the last digits with care"
        )
    if len(set(runs.words["seed"].tolist())) < 2:
        notes.append("one seed: what a seed changes is not known")
    if law.axes == ("n", "d") and runs.has("s") and float((runs["s"] / runs["d"]).max()) > 4.5:
        most = float((runs["s"] / runs["d"]).max())
        notes.append(
            f"up to {most:.0f} epochs: repeated structures are worth less than new ones; --law repetition says how much"
        )
    return notes
