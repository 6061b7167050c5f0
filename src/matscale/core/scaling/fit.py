"""Fit scaling laws, each with a verdict, to the runs of a study or the rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from matscale.core.errors import ConfigError, DataError, did_you_mean
from matscale.core.hosting.host import host
from matscale.core.scaling.frontier import fit_frontier
from matscale.core.scaling.isoflop import fit_isoflop
from matscale.core.scaling.joint import fit_joint
from matscale.core.scaling.law import Law
from matscale.core.scaling.means import BESIDE, has_one_cost
from matscale.core.scaling.one_variable import fit_slice
from matscale.core.scaling.pooled.mixed import fit_mixed
from matscale.core.scaling.pooled.offsets import pool as pooled
from matscale.core.scaling.pooled.one_law import with_groups
from matscale.core.scaling.result import Fit
from matscale.core.scaling.tables.baselines import with_baselines
from matscale.core.scaling.tables.sources import Source, read
from matscale.core.scaling.tables.table import AXES, Table, groups
from matscale.core.scaling.text import listed
from matscale.core.scaling.verdict import INCOMPLETE, LAWS, LOCAL_SLOPE, NO_LEARNING, REJECTED, Reason

WAYS = ("n", "d", "c", "nd", "frontier", "isoflop", "mixed", "auto")
"""Values of the option `law` apart from the names of forms of laws (power, floor, kaplan, ...)."""
CURVES = ("frontier", "c", "auto")
"""Laws that use all validations of a run rather than only the last one."""
SLOPES = (*LAWS, LOCAL_SLOPE, REJECTED)
"""Verdicts that a joint law of all runs may correct, if a law in one variable was fitted at a fixed other variable."""


@dataclass(frozen=True)
class Options:
    """Options of a fit; the defaults are those of the command line."""

    target: str = "loss"
    axis: str | None = None
    """Variable of a law in one variable; None: the variable with the largest number of sizes."""
    at: float | None = None
    """Value at which the other variable is held; None: the value with the largest number of sizes."""
    checkpoint: str = "last"
    """Validations of a run that a joint law uses: last, best or all."""
    samples: int = 1000
    """Number of bootstrap samples."""
    seed: int = 0
    pool: bool = False
    """Whether one law is fitted to all architectures together, instead of one law to each."""


SHOWN = 5
"""Largest number of laws that could not be fitted and are listed with the reason."""


def needs_curves(law: str, checkpoint: str) -> bool:
    """Whether the fit of `law` needs every validation of a run, not only the last and the best."""
    return law in CURVES or checkpoint == "all"


def fit(
    source: Source,
    law: str = "auto",
    target: str = "loss",
    *,
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
    architecture: str | None = None,
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    axis: str | None = None,
    at: float | None = None,
    checkpoint: str = "last",
    samples: int = 1000,
    seed: int = 0,
    pool: bool = False,
) -> Fit:
    """Fit the scaling law of one architecture to `source`: run folders, a study, a table file, rows or a `Table`.

    Values of `law`: `n`, `d` or `c` is a law in this variable, in the form that fits best; `nd` is the joint law in n
    and d; `frontier` and `isoflop` are laws of compute; `mixed` has one exponent for all architectures and an offset
    for each; the name of a form fits this form. `auto` fits the joint law to a grid of n and d, and otherwise a law in
    the variable with most sizes. `Options` explains `axis`, `at`, `checkpoint`, `samples`, `seed` and `pool`. Raises
    DataError for data that cannot be fitted, ConfigError for an unknown name.

    >>> rows = [{"n": 10.0**p, "loss": 40 * 10.0**(-0.3 * p) * (1 + 0.01 * (-1)**p)} for p in range(3, 9)]
    >>> found = fit(rows, law="power")
    >>> found.verdict, round(found.parameters["alpha"], 2)
    ('law', 0.3)
    """
    table = read_with_baselines(source, columns, target, where, baselines, needs_curves(law, checkpoint))
    chosen = Options(target, axis, at, checkpoint, samples, seed, pool)
    _refuse_unused(law, chosen)
    if law == "mixed" or pool:
        table = pooled(table) if pool else table
        return fit_law(table, best_way(table) if law == "auto" else law, chosen)
    name = architecture or _only(table)
    if name not in table.architectures:
        raise ConfigError(f"There are no runs of {name!r}. {did_you_mean(name, table.architectures)}")
    part = table.of_architecture(name)
    return fit_law(part, best_way(part) if law == "auto" else law, chosen)


def read_with_baselines(
    source: Source,
    columns: Mapping[str, str] | None,
    target: str,
    where: Mapping[str, str] | None,
    baselines: Mapping[str, Mapping[str, float]] | None,
    curves: bool = False,
) -> Table:
    """Read the table at `source` and add `baselines` to it; if empty, baselines of run folders are measured."""
    table = read(source, columns, target=target, where=where, curves=curves)
    given = {name: dict(errors) for name, errors in (baselines or {}).items()}
    return replace(table, baselines=given) if given else with_baselines(table)[0]


def fit_all(
    table: Table, law: str = "auto", options: Options | None = None, refused: list[str] | None = None
) -> list[Fit]:
    """Fit laws to each architecture of a table: the law that `law` names, or several.

    `auto` stands for a law in each variable that varies, and the joint law. The reasons why laws could not be fitted
    are appended to `refused`. Raises DataError if no law can be fitted.
    """
    options = options or Options()
    _refuse_unused(law, options)
    if law == "mixed":
        return [fit_law(table, law, options)]
    table = pooled(table) if options.pool else table
    told: list[str] = []
    found = []
    refuse_single_rows(table)
    for name in table.architectures:
        part = table.of_architecture(name)
        known = ways(part) if law == "auto" else [law]
        if not known:
            told.append(f"{name or 'table'}: no axis varies. Train models of several sizes.")
        joint = joint_law(part, options) if len(known) > 1 else None
        for way in known:
            try:
                found.append(fit_law(part, way, options, joint))
            except DataError as error:
                told.append(f"{name or 'table'}, {way}: {error}")
    if len(told) > SHOWN:
        told = [*told[:SHOWN], f"{len(told) - SHOWN} more laws; --arch NAME says why."]
    if not found:
        raise DataError(" ".join(told) or "There is nothing to fit: no run is left.")
    if refused is not None:
        refused += told
    return found


def refuse_single_rows(table: Table) -> None:
    """Raises DataError for a table in which each architecture has a single row, such as a leaderboard."""
    names = table.architectures
    if len(names) > 1 and len(table.ends()) == len(names):
        raise DataError(
            f"Each of the {len(names):,} architectures ({listed(names)}) has one row, and a law needs at least four "
            "sizes. Fit one law over all of them: matscale fit --pool; or name larger groups and give each an offset: "
            "--map arch=COLUMN --law mixed."
        )


def fit_law(table: Table, law: str, options: Options, joint: Fit | None = None) -> Fit:
    """Fit one law to one architecture; its verdict takes the joint law of the same runs into account.

    `joint` is the joint law, if it was fitted already. A law in n or d is only a local slope if the joint law has a
    floor.
    """
    if law == "nd" and joint is not None:
        return joint
    fit = with_groups(_fitted(table, law, options))
    if fit.points == "size means" and fit.verdict in SLOPES:
        return beside(fit, joint or joint_law(table, options))
    return fit


def joint_law(table: Table, options: Options) -> Fit | None:
    """Fit the joint law in n and d to one architecture; None if its runs are no grid, or if the fit fails."""
    if not is_grid(table):
        return None
    try:
        return _fitted(table, "nd", options)
    except DataError:
        return None


def beside(slice_of_grid: Fit, joint: Fit | None) -> Fit:
    """Correct the verdict on a law in one variable to local slope, if the joint law of the same runs contradicts it.

    The joint law contradicts it by a floor, or by another exponent. A term of the joint law in the variable that is
    held fixed bends the line of the fit: for a law in N, E + B D^-beta is a floor, so that the slope falls with N. For
    the same reason, a power law that was rejected for its curvature is a local slope. A slice with a floor of its own
    is local, too, if the joint law is accepted and has a floor: the floor of the slice is E + B D^-beta at this D
    alone.
    """
    fit = slice_of_grid
    if joint is None or fit.verdict not in SLOPES:
        return fit
    if joint.law.floor is None or joint.verdict in (NO_LEARNING, INCOMPLETE):
        return fit
    if fit.law.floor is not None:
        return _of_one_slice(fit, joint) if fit.is_law and joint.is_law and joint.shows_floor else fit
    name, floor = joint.exponent_of(fit.axes[0]), joint.law.floor
    low, high = fit.intervals[fit.law.exponents[0]]
    is_other = joint.is_law and bool(name) and not low <= joint.parameters[name] <= high
    if not (joint.shows_floor or is_other):
        return fit
    itself = "" if joint.is_law else f", itself {joint.verdict},"
    exponent = f", and {name} of {fit.axes[0]} is {joint.told(name)}" if name else ""
    reason = Reason("i", f"the joint law {joint.law.name}{itself} has a floor of {joint.told(floor)}{exponent}")
    others = [other for other in fit.reasons if other.trigger != "i"]  # that no floor is excluded is said by the floor
    return replace(fit, reasons=(reason, *others), verdict=LOCAL_SLOPE)


def _of_one_slice(fit: Fit, joint: Fit) -> Fit:
    """Copy of the fit of a slice with the verdict local slope: its floor is not that of the joint law."""
    floor, own = joint.law.floor, fit.law.floor
    assert floor is not None
    assert own is not None
    where = fit.fixed or f"the runs that vary in {fit.axes[0]} alone"
    text = f"the joint law {joint.law.name} has a floor of {joint.told(floor)}; the floor of this slice, "
    reason = Reason("i", f"{text}{fit.told(own)}, and its exponent hold at {where} only")
    return replace(fit, reasons=(reason,), verdict=LOCAL_SLOPE)


def _fitted(table: Table, law: str, options: Options) -> Fit:
    one_variable = [form for form in host().laws() if form.axes == ("x",)]
    if law == "isoflop":
        return fit_isoflop(table, one_variable, options.target)
    if law == "frontier" or (law == "c" and _has_frontier(table)):
        return fit_frontier(table, unbroken(one_variable), options.target, samples=options.samples, seed=options.seed)
    if law in AXES:
        return fit_slice(table, law, one_variable, options.target, options.at)
    if law == "mixed":
        return fit_mixed(table, host().law("power"), options.axis or widest(table), options.target, options.at)
    form = _form(law)
    if form.axes == ("x",):
        axis = options.axis or widest(table)
        return fit_slice(table, axis, [form], options.target, options.at)
    return fit_joint(table, form, options.target, samples=options.samples, seed=options.seed, at=options.checkpoint)


def _refuse_unused(law: str, options: Options) -> None:
    """Raises ConfigError for an option that has no effect on `law`."""
    is_form = law == "mixed" or (law not in WAYS and law not in AXES and _form(law).axes == ("x",))
    if options.pool and law == "mixed":
        raise ConfigError(
            "--law mixed and --pool exclude each other: the first gives each group an offset, the second does not. "
            "Leave out one of them."
        )
    if options.axis and not is_form:
        raise ConfigError(
            f"--axis {options.axis} works only with the name of a form in one variable, as in --law power --axis d; "
            f"the variables of the law {law} are fixed. Leave out --axis."
        )
    if options.at is not None and not (is_form or law in BESIDE):
        raise ConfigError(
            f"--at {options.at:g} is the fixed d of a law in n, or the fixed n of a law in d; the law {law} has no "
            "fixed variable. Choose --law n or --law d, or leave out --at."
        )


def _has_frontier(table: Table) -> bool:
    """Whether runs of one n differ in cost, so that a law in c has to be fitted to the best runs for each c."""
    return table.has("n", "c") and varies(table, "n") and (varies(table, "d") or not has_one_cost(table.ends()))


def _form(name: str) -> Law:
    try:
        return host().law(name)
    except ConfigError:
        known = [*WAYS, *(form.name for form in host().laws())]
        raise ConfigError(f"There is no law {name!r}. {did_you_mean(name, known)}") from None


def unbroken(laws: Sequence[Law]) -> list[Law]:
    """Laws without a break. Only these may be fitted to a convex hull, as a break may be an artefact of the hull."""
    return [law for law in laws if law.verdict != "broken law"]


def ways(table: Table) -> list[str]:
    """Names of the laws that `auto` stands for: n and d if they vary, the joint law of a grid, one in compute."""
    found = [axis for axis in ("n", "d") if varies(table, axis)]
    if is_grid(table):
        found.append("nd")
    if table.has("c") and varies(table, "c"):
        found.append("frontier" if table.has("n") and (varies(table, "n") or table.has_curves) else "c")
    return found


def best_way(table: Table) -> str:
    """Name of the law that `fit` chooses for `auto`."""
    return "nd" if is_grid(table) else widest(table)


def widest(table: Table) -> str:
    """Name of the variable with the largest number of sizes; in a tie, n comes before d, and d before c."""
    known = [axis for axis in AXES if table.has(axis)]
    if not known:
        raise DataError("The table has no column with a size: n, d or c. Map a column with --map n=COLUMN.")
    return max(known, key=lambda axis: (int(groups(table[axis]).max()), -list(AXES).index(axis)))


def varies(table: Table, axis: str) -> bool:
    return table.has(axis) and int(groups(table[axis]).max()) > 0


def is_grid(table: Table) -> bool:
    """Whether n and d vary independently: some n occurs with three values of d, and some d with three values of n."""
    if not (varies(table, "n") and varies(table, "d")):
        return False
    n, d = groups(table["n"]), groups(table["d"])
    pairs = set(zip(n.tolist(), d.tolist()))
    return all(max(sum(1 for p in pairs if p[k] == v) for v in {p[k] for p in pairs}) >= 3 for k in (0, 1))


def _only(table: Table) -> str:
    names = table.architectures
    if len(names) != 1:
        raise ConfigError(
            f"The table has {len(names)} architectures: {listed(names)}. Choose one with architecture=, fit one law "
            "over all of them with pool=True, or fit each with fit_all."
        )
    return names[0]
