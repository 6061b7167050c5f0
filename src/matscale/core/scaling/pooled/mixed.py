"""Mixed law: one exponent for all groups of a table, and a random offset for each group.

    ln L = ln A - alpha ln x + b_group + e,  b ~ N(0, tau²),  e ~ N(0, sigma²)

Points are means per group and size. The offset of a group describes what its members share: architecture, training
data, tuning. If offsets are correlated with size, the slope within groups differs from that between groups; the verdict
tests this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from matscale.core.errors import DataError
from matscale.core.scaling.floors import floor_chance, not_excluded
from matscale.core.scaling.held_out import HeldOut
from matscale.core.scaling.intervals import LEVEL, Spread, wide_enough
from matscale.core.scaling.law import Array, Frame, Law
from matscale.core.scaling.means import HELD, hold, size_means, slice_of
from matscale.core.scaling.pooled.offsets import Offset, everyone, numbered, ordered
from matscale.core.scaling.pooled.random_offsets import RandomOffsets, random_offsets, whiten
from matscale.core.scaling.result import Fit, lowest_bar
from matscale.core.scaling.tables.seen import seen_note
from matscale.core.scaling.tables.table import AXES, GROUP, Table, Words, groups
from matscale.core.scaling.text import counted, listed, percent
from matscale.core.scaling.verdict import SIGNIFICANT, Reason, flat, is_large, learning, missed, too_few, verdict

PARAMETERS = ("A", "alpha", "tau", "sigma")


def mixed_law(power: Law) -> Law:
    """Form of the mixed law, derived from the power law: one exponent, and a random offset for each group."""
    return replace(
        power,
        name="mixed",
        summary="A power of one variable, with one exponent and an offset per group.",
        formula="L = A x^-alpha e^b, one b per group: N(0, tau²); scatter within groups: sigma",
        reference="doi:10.1093/biomet/58.3.545",  # Patterson & Thompson 1971
        logs=frozenset({"A", "tau", "sigma"}),
    )


@dataclass(frozen=True)
class Points:
    """Points of a mixed law: the mean ln loss of each group at each size."""

    x: Array
    """ln of the variable [k]"""
    y: Array
    """ln of the loss [k]"""
    names: Words
    """Group of each mean [k]"""

    def __len__(self) -> int:
        return len(self.y)

    @property
    def groups(self) -> tuple[list[str], NDArray[np.int64]]:
        """Names of the groups, and the index of the group of each point [k]."""
        return numbered(self.names)

    @property
    def n_sizes(self) -> int:
        return 1 + int(groups(np.exp(self.x)).max())

    def pick(self, chosen: NDArray[np.bool_]) -> Points:
        return Points(self.x[chosen], self.y[chosen], self.names[chosen])

    def columns(self, frame: Frame) -> Array:
        """Design matrix of the regression [k, 2]: a column of 1, and -ln x minus its mean."""
        return rows(self.x, frame)

    def fit(self, frame: Frame) -> RandomOffsets:
        return random_offsets(self.columns(frame), self.y - frame.y, self.groups[1])


def rows(x: Array, frame: Frame) -> Array:
    """Design matrix [k, 2] at ln x [k]: 1, for the coefficient ln A, and the centred -ln x, for alpha."""
    return np.column_stack([np.ones_like(x), frame.x[0] - x])


def fit_mixed(table: Table, power: Law, axis: str, target: str = "loss", at: float | None = None) -> Fit:
    """Fit the mixed law in `axis` to all architectures of a table. Raises DataError for too few groups or sizes."""
    runs = table.ends()
    if not runs.has(axis):
        raise DataError(f"The table has no column {axis} ({AXES[axis]}). Map one with --map {axis}=COLUMN.")
    runs, fixed = _slice(runs, axis, at)
    bar = lowest_bar(table, target)
    points, chosen = _points(runs, axis)
    reasons = learning(np.exp(points.y), bar)
    if bar is not None and not any(reason.is_no_learning for reason in reasons):
        runs = runs.keep(runs["loss"] < bar[1], f"does not beat the baseline {bar[0]} ({bar[1]:.4g})")
        points, chosen = _points(runs, axis)
    check_groups(points)
    law = mixed_law(power)
    frame = Frame.of(law, points.x[:, None], points.y)
    found = points.fit(frame)
    intervals = _intervals(found, frame)
    held = hold_out(points, axis)
    reasons = [*reasons, *_reasons(law, points, found, frame, axis, intervals, held)]
    names, _ = points.groups
    names_of_rows = {**chosen.words, GROUP: chosen.words["arch"], "arch": np.full(len(chosen), everyone(len(names)))}
    return Fit(
        law=law,
        axes=(axis,),
        points="group means",
        architecture=everyone(len(names)),
        target=target,
        theta=found.beta,
        frame=frame,
        parameters=dict(zip(PARAMETERS, _values(found, frame))),
        intervals=intervals,
        verdict=verdict(law, reasons, intervals),
        reasons=tuple(reasons),
        notes=tuple(_notes(points, found, chosen)),
        x=points.x[:, None],
        y=points.y,
        spread=_spread(law, found, frame),
        held_out=tuple(held),
        table=replace(chosen, words=names_of_rows),
        fixed=fixed,
        groups=_offsets(names, found),
        facts={
            "objective": "restricted likelihood of ln loss, means per group and size with equal weight",
            "search": "closed form for each of a grid of tau²/sigma²",
            "intervals": f"{LEVEL:.0%}, Student's t averaged over tau²/sigma² by its restricted likelihood",
        },
    )


def _slice(runs: Table, axis: str, at: float | None) -> tuple[Table, str]:
    """Choose the runs at one value of the other variable; all runs, if each group has a single value of it.

    In the second case, the offset of a group includes the effect of its value.
    """
    if at is not None:
        return slice_of(runs, axis, at)
    parts = [runs.of_architecture(name) for name in runs.architectures]
    within = [o for o in HELD.get(axis, ()) if runs.has(o) and any(groups(part[o]).max() > 0 for part in parts)]
    return hold(runs, axis, within)


def _points(runs: Table, axis: str) -> tuple[Points, Table]:
    """Mean ln loss per group and size, and the runs behind the means; outliers among seeds are left out."""
    if len(runs) == 0:
        raise DataError("There is nothing to fit: all rows were excluded.")
    names = runs.architectures
    means = [size_means(runs.of_architecture(name), axis) for name in names]
    far = [source for part in means for source, _ in part.outlier_runs]
    x, y = np.concatenate([part.x[:, 0] for part in means]), np.concatenate([part.y for part in means])
    whose = np.repeat(np.array(names), [len(part) for part in means])
    kept = ~np.isin(runs.words["source"], far)
    return Points(x, y, whose), runs.keep(kept, "is far from the other seeds of its size")


def check_groups(points: Points) -> None:
    """Raises DataError if there are too few groups, or too few points per group, to tell offsets from residuals."""
    names, number = points.groups
    counts = np.bincount(number)
    spare = len(points) - len(names)
    if len(names) < 2:
        raise DataError(
            f"The mixed law needs several groups, but all rows belong to one ({names[0] or 'without a name'}). Say "
            "which column names the groups, with --map arch=COLUMN, or fit one law: --law power."
        )
    if spare == 0:
        raise DataError(
            f"Each of the {len(names):,} groups ({listed(names)}) has one size: its offset cannot be told from its "
            "residual. Fit one law over all of them, whose residuals are the offsets: --pool; or name larger groups: "
            "--map arch=COLUMN."
        )
    if spare < 2 or points.n_sizes < 3:
        few = [name for name, count in zip(names, counts) if count == 1]
        raise DataError(
            f"{counted(len(points), 'point')} in {len(names):,} groups, {len(few):,} of which have one size "
            f"({listed(few)}), at {points.n_sizes} sizes in all: the mixed law needs three sizes, and two more points "
            "than groups. Fit one law over all groups: --pool."
        )


def _values(found: RandomOffsets, frame: Frame) -> tuple[float, ...]:
    """Values of the parameters (A, alpha, tau, sigma) in the original units of x and L."""
    alpha = float(found.beta[1])
    return float(np.exp(found.beta[0] + frame.y + alpha * frame.x[0])), alpha, found.tau, found.sigma


def _intervals(found: RandomOffsets, frame: Frame) -> dict[str, tuple[float, float]]:
    low, high = found.of_line(np.array([[1.0, frame.x[0]], [0.0, 1.0]]), LEVEL)
    ends = np.exp(np.minimum([low[0] + frame.y, high[0] + frame.y], 700.0))
    return {
        "A": (float(ends[0]), float(ends[1])),
        "alpha": (float(low[1]), float(high[1])),
        "tau": found.of_tau(LEVEL),
        "sigma": found.of_sigma(LEVEL),
    }


def _spread(law: Law, found: RandomOffsets, frame: Frame) -> Spread:
    """Uncertainty of the law of a typical group, for predictions of new sizes of new groups."""
    scatter = float(np.hypot(found.tau, found.sigma))
    return Spread(law, found.beta, frame, found.covariance(), scatter, len(found.counts) - 1)


def _offsets(names: list[str], found: RandomOffsets) -> tuple[Offset, ...]:
    low, high = found.of_offsets(LEVEL)
    return ordered([
        Offset(name, int(found.counts[g]), *(float(np.exp(v)) for v in (found.offsets[g], low[g], high[g])))
        for g, name in enumerate(names)
    ])  # fmt: skip


def hold_out(points: Points, axis: str) -> list[HeldOut]:
    """Predict the largest point from the other points and the offset of its group, as a test of the mixed law.

    If there are eight sizes or more, the two largest points are predicted.
    """
    k = 2 if points.n_sizes >= 8 else 1
    top = np.argsort(points.x, kind="stable")[-k:]
    kept = np.ones(len(points), dtype=bool)
    kept[top] = False
    rest = points.pick(kept)
    try:
        check_groups(rest)
    except DataError:
        return []
    frame = Frame(np.array([rest.x.mean()]), float(rest.y.mean()))
    found, names = rest.fit(frame), rest.groups[0]
    held = []
    for j in top:
        own = names.index(str(points.names[j])) if points.names[j] in names else None
        at = rows(points.x[j : j + 1], frame)
        centre = float(found.beta @ at[0]) + (0.0 if own is None else float(found.offsets[own])) + frame.y
        (low,), (high,) = (ends + frame.y for ends in found.of_line(at, LEVEL, own, new=True))
        (low_80,), (high_80,) = (ends + frame.y for ends in found.of_line(at, 0.8, own, new=True))
        ends = (low, high), (low_80, high_80)
        held.append(HeldOut.of({axis: points.x[j]}, centre, points.y[j], *ends, float(np.ptp(rest.y))))
    return held


# Verdict ------------------------------------------------------------------------------------------------------------


def _reasons(
    law: Law,
    points: Points,
    found: RandomOffsets,
    frame: Frame,
    axis: str,
    intervals: dict[str, tuple[float, float]],
    held: list[HeldOut],
) -> list[Reason]:
    """Reasons against the mixed law, from triggers b to i of the verdict (see `matscale.core.scaling.verdict`)."""
    reasons = too_few(axis, points.n_sizes, float(np.ptp(points.x) / np.log(10)))
    if reasons:
        return reasons
    low, high = intervals["alpha"]
    alpha, half = float(found.beta[1]), (high - low) / 2
    reasons += flat("alpha", alpha, low, high)
    if alpha <= 0:
        reasons.append(Reason("c", f"the loss rises with {axis}: more of it makes the models worse"))
    reasons += _unstable(points, alpha, low, high) + _on_few_groups(points)
    ratio = np.array([(found.tau / found.sigma) ** 2])
    reasons += _bent(points, frame, ratio, half) + _slopes_of_groups(points, half)
    reasons += _between(points, frame, ratio, half) + missed(held)
    if reasons:
        return reasons
    order = np.argsort(points.x, kind="stable")
    root = whiten(np.eye(len(points)), points.groups[1], ratio)[0][np.ix_(order, order)]
    return not_excluded(floor_chance(points.x[order], points.y[order], root), counted(len(points), "point"))


def _unstable(points: Points, alpha: float, low: float, high: float) -> list[Reason]:
    """Reason against the law, if alpha changes too much without one of the groups (trigger d of the verdict)."""
    moved: list[tuple[float, str]] = []
    for name, rest in _without_each(points).items():
        if rest is not None:
            frame = Frame(np.array([rest.x.mean()]), float(rest.y.mean()))
            moved.append((float(rest.fit(frame).beta[1]) - alpha, name))
    if not moved:
        return []
    change, worst = max(moved, key=lambda one: abs(one[0]))
    if not is_large(change, alpha, low, high):
        return []
    text = f"without the group {worst}, alpha changes by {percent(change / alpha)}"
    return [Reason("d", text, widening=wide_enough(change, (high - low) / 2))]


def _on_few_groups(points: Points) -> list[Reason]:
    """Reason against the law, if without one group the others are too few for an exponent (trigger b of the verdict).

    The exponent is then the slope of this group alone, and trigger d cannot be tested without it."""
    names, number = points.groups
    spare = np.bincount(number) - 1
    needed = [
        name
        for g, name in enumerate(names)
        if spare.sum() - spare[g] < 2 or points.pick(points.names != name).n_sizes < 3
    ]
    if not needed:
        return []
    which, them = ("group", "it") if len(needed) == 1 else ("groups", "any one of them")
    text = f"the exponent rests on the {which} {listed(needed)}: without {them}, the others have too few sizes for it"
    return [Reason("b", text)]


def _without_each(points: Points) -> dict[str, Points | None]:
    """Points without each group, by its name; None where the mixed law cannot be fitted to the others."""
    found: dict[str, Points | None] = {}
    for name in points.groups[0]:
        rest = points.pick(points.names != name)
        try:
            check_groups(rest)
        except DataError:
            found[name] = None
        else:
            found[name] = rest
    return found


def _with(points: Points, frame: Frame, ratio: Array, extra: Array, freedom: int) -> tuple[Array, float]:
    """Fit the regression with one more column `extra`, at the fitted ratio of variances.

    Returns the coefficients, and the p-value of the last one (t-test).
    """
    columns = whiten(np.column_stack([points.columns(frame), extra]), points.groups[1], ratio)[0]
    y = whiten(points.y - frame.y, points.groups[1], ratio)[0]
    found, _, rank, _ = np.linalg.lstsq(columns, y, rcond=1e-8)
    if rank < 3 or freedom < 2:
        return found, 1.0
    left = y - columns @ found
    error = np.sqrt(left @ left / max(len(y) - 3, 1) * np.linalg.inv(columns.T @ columns)[2, 2])
    return found, 2 * float(stats.t.sf(abs(found[2]) / max(error, 1e-300), freedom))


def _bent(points: Points, frame: Frame, ratio: Array, half: float) -> list[Reason]:
    """Reason against the law, if a term in (ln x)² is significant (trigger e of the verdict)."""
    (_, _, bend), p = _with(points, frame, ratio, (points.x - frame.x[0]) ** 2, len(points) - 3)
    if p >= SIGNIFICANT:
        return []
    widening = 1 + abs(bend) * float(np.ptp(points.x)) / half if half > 0 else 1.0
    return [Reason("e", f"the points bend away from the mixed law (p = {p:.2g})", widening=widening)]


def _slopes_of_groups(points: Points, half: float) -> list[Reason]:
    """Reason against the law, if groups of three or more points have different slopes (trigger e of the verdict).

    The test is an analysis of covariance.
    """
    number = points.groups[1]
    counts = np.bincount(number)
    x = points.x - (np.bincount(number, points.x) / counts)[number]
    y = points.y - (np.bincount(number, points.y) / counts)[number]
    squares, products = np.bincount(number, x * x), np.bincount(number, x * y)
    several = (counts >= 3) & (squares > 1e-6)
    inside = several[number]
    freedom, more = int((counts[several] - 2).sum()), int(several.sum()) - 1
    if more < 1 or freedom < 3:
        return []
    own = np.where(several, products / np.maximum(squares, 1e-300), 0.0)
    common = float(products[several].sum() / squares[several].sum())
    left = float(((y - own[number] * x)[inside] ** 2).sum())
    gained = float((((own - common)[several] ** 2) * squares[several]).sum())
    p = float(stats.f.sf(gained / more / max(left / freedom, 1e-300), more, freedom))
    if p >= SIGNIFICANT:
        return []
    apart = float(np.sqrt(gained / squares[several].sum()))
    slopes = f"{-own[several].max():.2g} to {-own[several].min():.2g}"
    text = f"the exponents of the groups differ: {slopes} (p = {p:.2g}); compare the groups, or fit each"
    return [Reason("e", text, widening=wide_enough(apart, half))]


def _between(points: Points, frame: Frame, ratio: Array, half: float) -> list[Reason]:
    """Reason against the law, if the slope between the means of groups differs from that within groups (trigger g).

    The test is that of Mundlak (1978).
    """
    names, number = points.groups
    if len(names) < 4:
        return []
    mean = (np.bincount(number, points.x) / np.bincount(number))[number]
    (_, inside, more), p = _with(points, frame, ratio, frame.x[0] - mean, len(names) - 2)
    if p >= SIGNIFICANT:
        return []
    text = f"within groups alpha is {inside:.2g}, between their means {inside + more:.2g} (p = {p:.2g})"
    return [Reason("g", f"{text}: offsets are correlated with size", widening=wide_enough(more, half))]


def _notes(points: Points, found: RandomOffsets, table: Table) -> list[str]:
    names, number = points.groups
    alone = [names[g] for g in np.flatnonzero(np.bincount(number) == 1)]
    said = []
    if alone:
        whose = "group has" if len(alone) == 1 else "groups have"
        said.append(
            f"{len(alone)} {whose} one size ({listed(alone)}): such an offset is a residual, shrunk towards the other "
            "groups"
        )
    needed = [name for name, rest in _without_each(points).items() if rest is None]
    if needed and not _on_few_groups(points):
        said.append(f"reason d could not be tested without {listed(needed, by=' or ')}: the others have no mixed law")
    if found.can_be_none:
        said.append("all groups may lie on one line: tau = 0 is not excluded")
    return [*said, *filter(None, [seen_note(table)])]
