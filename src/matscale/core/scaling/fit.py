"""Fit a scaling law with a verdict to runs or a table."""

from __future__ import annotations

from collections.abc import Mapping
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
from matscale.core.scaling.verdict import INCOMPLETE, LOCAL_SLOPE, NO_LEARNING, REJECTED, Reason

WAYS = ("n", "d", "c", "nd", "frontier", "isoflop", "mixed", "auto")
"""Values of the option `law` beside the names of forms, such as power, floor or kaplan."""
CURVES = ("frontier", "c", "auto")
"""Laws that are fitted to whole training curves rather than to the last points alone."""
SLOPES = ("law", LOCAL_SLOPE, REJECTED)
"""Verdicts on a slice of a grid that are replaced if its joint law says more."""


@dataclass(frozen=True)
class Options:
    """Options of a fit; the defaults are those of the command line."""

    target: str = "loss"
    axis: str | None = None
    """Variable of a law in one variable; None: the variable with most sizes."""
    at: float | None = None
    """Value of the variable that is held fixed; None: the value with most sizes."""
    checkpoint: str = "last"
    """Steps of a run that a joint law uses: last, best or all."""
    samples: int = 1000
    """Bootstrap samples."""
    seed: int = 0
    pool: bool = False
    """Fit one law over all architectures, instead of one law each."""


SHOWN = 5
"""Number of laws that could not be fitted and are listed, each with its reason."""


def needs_curves(law: str, checkpoint: str) -> bool:
    """Whether a fit needs every validation of a run, rather than only the best and the last."""
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

    `law`: `n`, `d`, `c` choose the form that fits best in that variable, `nd` is the joint law in both, `frontier` and
    `isoflop` are laws of compute; the name of a form fits that form; `auto` fits the joint law to a grid, and otherwise
    a law in the variable with most sizes. `mixed` is one exponent for all architectures with an offset of each, `pool`
    one law over all of them. `Options` explains `axis`, `at`, `checkpoint`, `samples`, `seed` and `pool`. Raises
    DataError (data), ConfigError (names).

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
    """Read the table at `source` and add `baselines`; if none are given, those of runs are measured now."""
    table = read(source, columns, target=target, where=where, curves=curves)
    given = {name: dict(errors) for name, errors in (baselines or {}).items()}
    return replace(table, baselines=given) if given else with_baselines(table)[0]


def fit_all(
    table: Table, law: str = "auto", options: Options | None = None, refused: list[str] | None = None
) -> list[Fit]:
    """Fit all laws that `law` names, for every architecture.

    `auto` names one law per variable that varies, and the joint law.

    Reasons why laws could not be fitted are appended to `refused`. Raises DataError if no law can be fitted.
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
    """Raises DataError for a table with one row per architecture, such as a leaderboard."""
    names = table.architectures
    if len(names) > 1 and len(table.ends()) == len(names):
        raise DataError(
            f"Each of the {len(names):,} architectures ({listed(names)}) has one row, and a law needs at least four "
            "sizes. Fit one law over all of them: matscale fit --pool; or name larger groups and give each an offset: "
            "--map arch=COLUMN --law mixed."
        )


def fit_law(table: Table, law: str, options: Options, joint: Fit | None = None) -> Fit:
    """Fit one law to one architecture. A slice of a grid is reported as a local slope if its joint law has a floor.

    `joint` is the joint law, if it has been fitted already.
    """
    if law == "nd" and joint is not None:
        return joint
    fit = with_groups(_fitted(table, law, options))
    if fit.points == "size means" and fit.verdict in SLOPES:
        return beside(fit, joint or joint_law(table, options))
    return fit


def joint_law(table: Table, options: Options) -> Fit | None:
    """Fit the joint law in n and d to one architecture; None if there is no grid or the fit fails."""
    if not is_grid(table):
        return None
    try:
        return _fitted(table, "nd", options)
    except DataError:
        return None


def beside(slice_of_grid: Fit, joint: Fit | None) -> Fit:
    """Correct the verdict on a slice to local slope if the joint law of the same runs has a floor, or another exponent.

    The terms that a slice holds fixed bend its line: in the law in N, E + B D^-beta is a floor, so that the slope
    falls. For the same reason, a power that the slice rejects because it bends is a local slope.
    """
    fit = slice_of_grid
    if joint is None or fit.law.floor is not None or fit.verdict not in SLOPES:
        return fit
    if joint.law.floor is None or joint.verdict in (NO_LEARNING, INCOMPLETE):
        return fit
    name, floor = joint.exponent_of(fit.axes[0]), joint.law.floor
    low, high = fit.intervals[fit.law.exponents[0]]
    is_other = joint.is_law and bool(name) and not low <= joint.parameters[name] <= high
    if not (joint.intervals[floor][0] > 0 or is_other):
        return fit
    itself = "" if joint.is_law else f", itself {joint.verdict},"
    exponent = f", and {name} of {fit.axes[0]} is {joint.told(name)}" if name else ""
    reason = Reason("i", f"the joint law {joint.law.name}{itself} has a floor of {joint.told(floor)}{exponent}")
    others = [other for other in fit.reasons if other.trigger != "i"]  # that no floor is excluded is said by the floor
    return replace(fit, reasons=(reason, *others), verdict=LOCAL_SLOPE)


def _fitted(table: Table, law: str, options: Options) -> Fit:
    one_variable = [form for form in host().laws() if form.axes == ("x",)]
    if law == "isoflop":
        return fit_isoflop(table, one_variable, options.target)
    if law == "frontier" or (law == "c" and _has_frontier(table)):
        return fit_frontier(
            table, _affordable(one_variable), options.target, samples=options.samples, seed=options.seed
        )
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
    """Raises ConfigError for an option that `law` does not use."""
    is_form = law == "mixed" or (law not in WAYS and law not in AXES and _form(law).axes == ("x",))
    if options.pool and law == "mixed":
        raise ConfigError(
            "--law mixed fits all groups and gives each an offset; --pool gives none. Leave out one of the two."
        )
    if options.axis and not is_form:
        raise ConfigError(
            f"--axis {options.axis} is for a form in one variable (--law power --axis d); the law {law} has its own."
        )
    if options.at is not None and not (is_form or law in BESIDE):
        raise ConfigError(
            f"--at {options.at:g} fixes the other variable of a law in n or d: choose one, --law n or --law d. The law "
            f"{law} holds none."
        )


def _has_frontier(table: Table) -> bool:
    """Whether runs of one n differ in cost; a law in c is then fitted to the best runs for each c."""
    return table.has("n", "c") and varies(table, "n") and (varies(table, "d") or not has_one_cost(table.ends()))


def _form(name: str) -> Law:
    try:
        return host().law(name)
    except ConfigError:
        known = [*WAYS, *(form.name for form in host().laws())]
        raise ConfigError(f"There is no law {name!r}. {did_you_mean(name, known)}") from None


def _affordable(laws: list[Law]) -> list[Law]:
    """Laws for points on a convex hull: all except the broken ones, since a break may be an artefact of the hull."""
    return [law for law in laws if law.verdict != "broken law"]


def ways(table: Table) -> list[str]:
    """Names of the laws that `auto` fits: n and d as far as they vary, the joint law of a grid, and one in compute."""
    found = [axis for axis in ("n", "d") if varies(table, axis)]
    if is_grid(table):
        found.append("nd")
    if table.has("c") and varies(table, "c"):
        found.append("frontier" if table.has("n") and (varies(table, "n") or table.has_curves) else "c")
    return found


def best_way(table: Table) -> str:
    """Name of the one law that `fit` takes for `auto`."""
    return "nd" if is_grid(table) else widest(table)


def widest(table: Table) -> str:
    """Name of the variable with most sizes; if several have as many, n before d before c."""
    known = [axis for axis in AXES if table.has(axis)]
    if not known:
        raise DataError("The table has no size: no n, d or c. Map a column with --map n=COLUMN.")
    return max(known, key=lambda axis: (int(groups(table[axis]).max()), -list(AXES).index(axis)))


def varies(table: Table, axis: str) -> bool:
    return table.has(axis) and int(groups(table[axis]).max()) > 0


def is_grid(table: Table) -> bool:
    """Whether n and d vary independently: some n at three d, and some d at three n."""
    if not (varies(table, "n") and varies(table, "d")):
        return False
    n, d = groups(table["n"]), groups(table["d"])
    pairs = set(zip(n.tolist(), d.tolist()))
    return all(max(sum(1 for p in pairs if p[k] == v) for v in {p[k] for p in pairs}) >= 3 for k in (0, 1))


def _only(table: Table) -> str:
    names = table.architectures
    if len(names) != 1:
        raise ConfigError(
            f"The table has {len(names)} architectures: {listed(names)}. Say architecture=, pool=True for one law over "
            "all of them, or use fit_all."
        )
    return names[0]
