"""Group the rows of a training log by run. A log has a row per step, and a law uses only the last step of a run."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import stats

from matscale.core.errors import DataError
from matscale.core.scaling.tables.column_kinds import (
    COUNTS,
    DATE,
    PASSES,
    REPEATS,
    SEEN,
    SETTINGS,
    TIMES,
    counts_up,
    is_counted,
    is_loss,
    is_metric,
    is_ordered,
    may_name_runs,
    names_apart,
    rises,
)
from matscale.core.scaling.tables.columns import ColumnChoice, plain_name, words_of
from matscale.core.scaling.tables.table import AXES, Excluded
from matscale.core.scaling.text import counted

Row = dict[str, Any]
Groups = dict[Hashable, list[Row]]

IDENTITY = ("arch", "seed", "n", "e")
"""Columns of the table that are constant during a run."""
ALONG = ("d", "u", "s", "c")
"""Columns of the table that are constant during a run, or grow with the steps of the run."""


def name_runs(
    place: str, rows: list[Row], records: Sequence[Mapping[str, Any]], choice: ColumnChoice, is_mapped: bool
) -> tuple[list[Row], list[Excluded], ColumnChoice, list[str]]:
    """Name the run of each row of a table, to distinguish steps of one run from separate runs.

    Returns the rows to use, the rows that a resumed run repeated and that are left out, the choice of columns, and
    sentences on what was decided. `records` are the rows of the file; `is_mapped` says whether the user chose the
    column of the run. Raises DataError if rows could be either steps of one run or separate runs.
    """
    if "step" not in choice.names:
        _refuse_curves_without_steps(place, rows, choice, is_mapped)
        if is_mapped:
            notes = _in_order_of_the_file(rows, choice)
        else:
            _refuse_progress(place, rows, records, choice)
            refuse_ordered(place, rows, records, choice)
            notes = _growing(place, rows, choice)
        return rows, [], choice, [*notes, *_other_settings(rows, records, choice)]
    measured = [row for row in rows if isinstance(row["loss"], float) and math.isfinite(row["loss"])]
    _refuse_missing(measured, "step", choice)
    if not any(row["step"] is not None for row in measured):
        return rows, [], choice, []
    notes = []
    while "run" in choice.names and not is_mapped and not _names_runs(measured):
        notes.append(f"{choice.names['run']} numbers the rows and names no run")
        choice = choice.without_run() or choice
        for row, record in zip(rows, records, strict=True):
            row["run"] = record.get(choice.names["run"]) if "run" in choice.names else None
    if "run" in choice.names:
        _refuse_missing(measured, "run", choice)
        told = _join_named(place, rows, measured, choice)
    else:
        told = _join_unnamed(place, rows, measured, records, choice)
    kept, again = _last_of_each_step(place, rows, choice)
    return kept, again, choice, [*notes, *told, *_short(kept), *_other_settings(rows, records, choice)]


def _grouped(rows: Sequence[Row], key: Callable[[Row], Hashable]) -> Groups:
    groups: Groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def _by(*names: str) -> Callable[[Row], Hashable]:
    return lambda row: tuple(row.get(name) for name in names)


def _is_empty(value: Any) -> bool:
    return value is None or value == ""


def _refuse_missing(rows: Sequence[Row], ours: str, choice: ColumnChoice) -> None:
    missing = [row for row in rows if _is_empty(row.get(ours))]
    if 0 < len(missing) < len(rows):
        raise DataError(
            f"{missing[0]['source']}: has no {choice.names[ours]} ({ours}), but other rows have one. Fill it in, or "
            "choose the rows that have it with --where."
        )


def _refuse_curves_without_steps(place: str, rows: Sequence[Row], choice: ColumnChoice, is_mapped: bool) -> None:
    """Raises DataError if one run has rows with several amounts of data or compute, but no column is the step."""
    column = choice.names.get("run", "")
    if not (is_mapped or plain_name(column) == "run" or plain_name(column).endswith("id")):
        return  # perhaps a label that several runs share
    for same in _grouped([row for row in rows if not _is_empty(row.get("run"))], _by("run", *IDENTITY)).values():
        along = [axis for axis in ALONG if len({row.get(axis) for row in same}) > 1]
        if along and len({_by(*ALONG)(row) for row in same}) == len(same):
            theirs = choice.names[along[0]]
            raise DataError(
                f"{place}: run {str(same[0]['run'])[:60]!r} has {len(same)} rows with different {theirs}, and no "
                f"column is the step. If these rows are steps of the run, say --map step={theirs}; if they are "
                "separate runs, give each a name of its own."
            )


def _refuse_progress(
    place: str, rows: Sequence[Row], records: Sequence[Mapping[str, Any]], choice: ColumnChoice
) -> None:
    """Raises DataError if rows of one size may be steps of a run: a column like `tokens_seen` or `time` varies in them.

    Rows may be in any order (newest first, resumed, shuffled). Times count only if they rise or fall steadily, since
    seeds differ in them, too.
    """
    record_of = {id(row): record for row, record in zip(rows, records, strict=True)}
    measured = [row for row in rows if isinstance(row["loss"], float) and math.isfinite(row["loss"])]
    groups = [same for same in _grouped(measured, _by("run", *IDENTITY, *ALONG)).values() if len(same) > 2]
    used = {*choice.names.values(), *(name for names in choice.beside.values() for name in names)}
    for name in dict.fromkeys(name for record in records for name in record):
        words = words_of(name)
        if name in used or is_loss(name) or words & SETTINGS - {"optimizer"}:
            continue
        values = [[record_of[id(row)].get(name) for row in same] for same in groups]
        if not (COUNTS | TIMES) & words and not all(DATE.search(str(value)) for same in values for value in same):
            continue
        is_curve = is_counted if COUNTS & words and not TIMES & words else is_ordered
        if groups and all(map(is_curve, values)):
            raise DataError(
                f"{place}: no column names the run, and {name} differs along {len(groups[0])} rows of one size. Are "
                f"they steps of one run, or separate runs? If they are steps, say --map step={name}. If each is a "
                f"run, say --map run={name}, or --map d={name} if this is the amount of data."
            )


def _in_order_of_the_file(rows: Sequence[Row], choice: ColumnChoice) -> list[str]:
    """Number the rows of each run in their order, if no column is the step and the losses fall from row to row.

    Only rows with a run that the user has named are numbered. Returns a note, or none.
    """
    named = [row for row in rows if not _is_empty(row.get("run"))]
    groups = _grouped(_measured(named), _by("run", *IDENTITY, *ALONG))
    if falling([same for same in groups.values() if len(same) > 1]) != "fall":
        return []
    shared = Counter(run[0] for run in _grouped(named, _by("run", *IDENTITY)))  # type: ignore[index]
    for run, same in _grouped(named, _by("run", *IDENTITY)).items():
        name = str(run[0])  # type: ignore[index]
        for k, row in enumerate(same, start=1):
            row["run"] = f"{name} {_label(row, choice)}" if shared[name] > 1 else name
            row["step"] = float(k)
    told = _told(groups, _measured(named), f"of one {choice.names['run']}").removesuffix("the last step of each counts")
    return [f"{told}no column is the step, so the last row of each run in the file is used"]


def _short(rows: Sequence[Row]) -> list[str]:
    """Note on runs that end long before most other runs of their architecture."""
    told = []
    runs = _grouped([row for row in _measured(rows) if row["step"] is not None], _by("arch", "run"))
    for of_arch in _grouped([max(same, key=lambda row: row["step"]) for same in runs.values()], _by("arch")).values():
        usual = sorted(row["step"] for row in of_arch)[len(of_arch) // 2]
        short = [row for row in of_arch if row["step"] < 0.9 * usual]
        if len(of_arch) > 2 and 3 * sum(abs(row["step"] - usual) <= 0.1 * usual for row in of_arch) >= 2 * len(of_arch):
            told += [f"run {str(row['run'])[:60]} at step {row['step']:,.10g}" for row in short]
            most = usual
    if not told:
        return []
    more = f" and {len(told) - 5} more" if len(told) > 5 else ""
    whose = (
        "its last loss is not final: leave its" if len(told) == 1 else "their last losses are not final: leave their"
    )
    return [
        f"{', '.join(told[:5])}{more} {'ends' if len(told) == 1 else 'end'} early, most others end at step "
        f"{most:,.10g}: if unfinished, {whose} rows out"
    ]


def _measured(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if isinstance(row["loss"], float) and math.isfinite(row["loss"])]


def falling(groups: Sequence[Sequence[Row]]) -> str:
    """Direction of the losses along the rows of nearly all groups: `fall`, `rise`, or empty if chance can explain it.

    The direction follows from the mean of Spearman's correlations with the order of the rows, or else from the share of
    neighbouring rows between which the loss falls. The second test finds rows of one size that belong to several runs,
    one after the other.
    """
    orders = [[row["loss"] for row in same] for same in groups if len(same) > 2]
    orders = [losses for losses in orders if len(set(losses)) > 1]
    if len(orders) < 2:
        return ""
    rhos = [float(np.corrcoef(np.arange(len(losses)), stats.rankdata(losses))[0, 1]) for losses in orders]
    mean = sum(rhos) / len(rhos)
    score = sum(rho * math.sqrt(len(losses) - 1) for rho, losses in zip(rhos, orders)) / math.sqrt(len(orders))
    if abs(mean) > 0.8 and abs(score) > 2.8:
        return "fall" if mean < 0 else "rise"
    pairs = [a > b for losses in orders for a, b in pairwise(losses)]
    spread = math.sqrt(sum((len(losses) + 1) / 12 for losses in orders))
    for falls, word in ((sum(pairs), "fall"), (len(pairs) - sum(pairs), "rise")):
        if falls > 0.85 * len(pairs) and falls - len(pairs) / 2 > 4 * spread:
            return word
    return ""


def refuse_ordered(place: str, rows: Sequence[Row], records: Sequence[Mapping[str, Any]], choice: ColumnChoice) -> None:
    """Raises DataError if the rows of one size seem to be steps of one run, although no column is the step.

    Rows seem to be steps if a column counts them, or if their losses fall along the rows of the file. Rows with one
    value of a column that may name runs are tested like rows of one size.
    """
    record_of = {id(row): record for row, record in zip(rows, records, strict=True)}
    measured = _measured(rows)
    is_numbered = "run" in choice.names and not names_apart([row["run"] for row in measured])
    keys = (*(("run",) if not is_numbered else ()), *IDENTITY, *ALONG)
    used = {*choice.names.values()} - ({choice.names["run"]} if is_numbered else set())
    others = [name for name in dict.fromkeys(n for record in records for n in record) if name not in used]
    others = [name for name in others if not is_metric(name)]
    of = {name: [record_of[id(row)].get(name) for row in measured] for name in others}
    names = [name for name in others if may_name_runs(name, of[name])]
    settings = [name for name in others if words_of(name) & SETTINGS and len(set(map(str, of[name]))) > 1]
    for name in ("", *names):
        groups = list(_split(_grouped(measured, _by(*keys)), partial(_text, record_of, name)))
        least = min(map(len, groups), default=0)
        large = [same for same in groups if len(same) > 2]
        if 5 * len(large) < 4 * len(groups) or not large:
            continue
        word = falling(large)
        for column in others:
            words = words_of(column)
            if words & (SETTINGS | REPEATS - {"index"}) or not (word or words & PASSES):
                continue
            if all(counts_up([record_of[id(row)].get(column) for row in same]) for same in large):
                raise DataError(
                    f"{place}: no column is the step, and {column} counts {len(large[0])} rows of one "
                    f"{name or 'size'}. Are they steps of one run, or separate runs? If they are steps, say --map "
                    f"'step={column}'; if each is a run, say --map 'run={column}'."
                )
        if not word or (settings and least < 8) or (not name and (least < 8 or len(large) < 3)):
            continue
        size = next((choice.names[axis] for axis in ("n", *ALONG) if axis in choice.names), "COLUMN")
        likely = name or next((n for n in names if _has_one_size(measured, of[n])), size)
        say = f"say --map 'run={likely}': the last row of each run counts (or --map step=COLUMN)"
        if word == "rise":
            say = f"keep the first row of each run, or say --map 'run={likely}' and --map step=COLUMN"
        raise DataError(
            f"{place}: no column names the run or the step, and the losses of {len(large[0])} rows of one "
            f"{name or 'size'} {word} along the file, as in a log. Are the rows steps of {len(groups)} runs, or "
            f"{len(measured)} separate runs? If they are steps, {say}. If each row is a run, add a column with a name "
            "for each and say --map run=COLUMN."
        )


def _text(record_of: Mapping[int, Mapping[str, Any]], name: str, row: Row) -> str:
    return str(record_of[id(row)].get(name))


def _split(groups: Groups, key: Callable[[Row], Hashable]) -> Iterator[list[Row]]:
    for same in groups.values():
        yield from _grouped(same, key).values()


def _has_one_size(rows: Sequence[Row], values: Sequence[Any]) -> bool:
    return len({(str(v), row.get("n")) for row, v in zip(rows, values)}) == len(set(map(str, values)))


def _growing(place: str, rows: Sequence[Row], choice: ColumnChoice) -> list[str]:
    """Notes for the user that each row is taken as a separate run, if an amount such as `tokens` rises along the rows.

    Raises DataError if the amount rises evenly, as in a log; in a grid of runs it rarely does.
    """
    measured = [row for row in rows if isinstance(row["loss"], float) and math.isfinite(row["loss"])]
    groups = [same for same in _grouped(measured, _by("run", *IDENTITY)).values() if len(same) > 1]
    for axis in (axis for axis in ("d", "s", "c") if axis in choice.guessed and "run" not in choice.names):
        theirs = choice.names[axis]
        values = [sorted(row[axis] for row in same) for same in groups]
        if not SEEN & {*plain_name(theirs, is_count=True).split("_")} or not groups or min(map(len, values)) < 3:
            continue
        if not all(rises(those) for those in values):
            continue
        steps = [[b - a for a, b in pairwise(those)] for those in values]
        if all(len(those) >= 5 and max(those[:-1]) < 1.02 * min(those[:-1]) for those in steps):
            raise DataError(
                f"{place}: no column names the run or the step, and {theirs} rises evenly along {len(values[0])} rows "
                f"of one size. Is the table a log of {len(groups)} runs, or are its rows {len(measured)} separate "
                f"runs? If they are steps, say --map step={theirs}; if each row is a run, say --map {axis}={theirs}."
            )
        return [f"each row counts as a separate run with its {theirs}; if rows are steps, give --map step={theirs}"]
    return []


def _other_settings(rows: Sequence[Row], records: Sequence[Mapping[str, Any]], choice: ColumnChoice) -> list[str]:
    """Note on runs that differ in a setting such as `lr`, although a law treats them as seeds of one another."""
    is_log = "step" in choice.names
    last = {
        row.get("run", id(row)) if is_log else id(row): (row, record) for row, record in zip(rows, records, strict=True)
    }
    record_of = {id(row): record for row, record in last.values()}
    same = _grouped([row for row, _ in last.values()], _by(*IDENTITY, *ALONG))
    groups = [[record_of[id(row)] for row in those] for those in same.values() if len(those) > 1]
    used = {*choice.names.values(), *(name for names in choice.beside.values() for name in names)}
    told = []
    for name in dict.fromkeys(name for record in records for name in record):
        words = words_of(name)
        skipped = TIMES | REPEATS | (COUNTS if is_log else set())
        if name in used or is_metric(name) or (words & skipped and not words & SETTINGS):
            continue
        values = [{str(record.get(name)) for record in those} for those in groups]
        times = Counter(value for those in values for value in those)
        varies = any(len(those) > 1 for those in values)
        if varies and (words & SETTINGS or (max(times.values()) > 1 and 2 * len(times) <= sum(map(len, groups)))):
            told.append((name, times.most_common(1)[0][0]))
    if not told:
        return []
    names, (name, value) = " and ".join(name for name, _ in told[:4]), told[0]
    return [
        f"runs of equal size that differ in {names} are averaged as if they were seeds; choose with --where "
        f"'{name}={value[:60]}', or leave the best of each size in the table"
    ]


def _names_runs(rows: Sequence[Row]) -> bool:
    """Whether the column of the run has names, and not just the numbers 1, 2, 3, ... of the rows of a log."""
    values = [row["run"] for row in rows]
    if not any(not _is_empty(value) for value in values):
        return False
    try:
        numbers = [int(str(value)) for value in values]
    except ValueError:
        return True
    counts = numbers == list(range(numbers[0], numbers[0] + len(numbers))) and len(numbers) > 1
    logs = _grouped(rows, _by(*IDENTITY)).values()
    return not (counts and any(len({row["step"] for row in log}) > 1 for log in logs))


# Runs ---------------------------------------------------------------------------------------------------------------


def _own_axes(groups: Groups, names: Mapping[str, str]) -> list[str]:
    """Amounts of data, `d` or `u`, that are constant during each run and differ between runs.

    They are recognised by a step that has several values, or by many steps that share a value.
    """

    def is_own(axis: str) -> bool:
        for same in groups.values():
            values = _grouped(same, _by(axis))
            if len(values) > 1 and 2 * len(values) <= len(same):
                return True
            if any(len({row[axis] for row in at}) > 1 for at in _grouped(same, _by("step")).values()):
                return True
        return False

    return [axis for axis in ("d", "u") if axis in names and is_own(axis)]


def _join_named(place: str, rows: Sequence[Row], measured: Sequence[Row], choice: ColumnChoice) -> list[str]:
    """Treat rows with one name of a run as one run, unless they differ in a column that is constant during a run."""
    first = _by("run", *IDENTITY)
    key = _by("run", *IDENTITY, *_own_axes(_grouped(measured, first), choice.names))
    several = [run for run, keys in _grouped(rows, _by("run")).items() if len({key(row) for row in keys}) > 1]
    groups = _grouped(measured, key)
    told = []
    if len(groups) < len(measured):
        told.append(_told(groups, measured, f"of one {choice.names['run']}"))
    if several:
        apart = [k for k in (*IDENTITY, *AXES) if k in choice.names]
        told.append(f"several runs have the same {choice.names['run']}; they are told apart by {', '.join(apart)}")
        for row in rows:
            if _by("run")(row) in several:
                row["run"] = f"{row['run']} {_label(row, choice)}"
    return told


def _join_unnamed(
    place: str,
    rows: Sequence[Row],
    measured: Sequence[Row],
    records: Sequence[Mapping[str, Any]],
    choice: ColumnChoice,
) -> list[str]:
    """Treat rows that agree in all constant columns as one run. Raises DataError if they may be several runs."""
    base = _grouped(measured, _by(*IDENTITY))
    if all(len({row["step"] for row in same}) == 1 for same in base.values()):
        return []  # one step each: rows are runs
    own = _own_axes(base, choice.names)
    keys = [*(name for name in IDENTITY if name in choice.names), *own]
    groups = _grouped(measured, _by(*keys))
    if all(len(same) == 1 for same in groups.values()):
        return []
    ask = _question(place, groups, measured, keys, choice)
    along = [
        axis
        for axis in ALONG
        if axis in choice.names and axis not in own
        if any(len({row[axis] for row in same}) > 1 for same in groups.values())
    ]
    steps = Counter(row["step"] for row in measured)
    if along:
        raise DataError(f"{ask} The column {choice.names[along[0]]} grows with the steps, so that either is possible.")
    if len(groups) > 1 and 2 * len(steps) > len(measured):
        raise DataError(f"{ask} The groups of rows share few steps, so that either is possible.")
    extra = _constant_columns(groups, rows, records, choice)
    for row, record in zip(rows, records, strict=True):
        row["run"] = _label(row, choice, [*keys, *(f"{name}={record.get(name)}" for name in extra)])
    runs = _grouped(measured, _by("run"))
    if any(len({row["step"] for row in same}) < len(same) for same in runs.values()):
        raise DataError(f"{ask} Some steps have several losses, so these are several runs, or one that was resumed.")
    shared = [choice.names.get(key, key) for key in keys] + extra
    return [_told(runs, measured, f"that share {', '.join(shared)}") + "; --map run=COLUMN overrides this"]


def _label(row: Row, choice: ColumnChoice, keys: Sequence[str] = (*IDENTITY, "d")) -> str:
    parts = [
        key if "=" in key else f"{key}={row[key]:g}" if isinstance(row[key], float) else f"{key}={row[key]}"
        for key in keys
        if "=" in key or (key in choice.names and row.get(key) is not None)
    ]
    return " ".join(parts)


def _told(groups: Groups, measured: Sequence[Row], shared: str) -> str:
    return (
        f"{counted(len(measured), 'row')} with a loss are {counted(len(groups), 'run')}: those {shared}; the last "
        "step of each counts"
    )


def _question(place: str, groups: Groups, measured: Sequence[Row], keys: Sequence[str], choice: ColumnChoice) -> str:
    key, same = max(groups.items(), key=lambda item: len(item[1]))
    values = ", ".join(f"{choice.names.get(k, k)} = {v}" for k, v in zip(keys, key))  # type: ignore[call-overload]
    column = next((choice.names[k] for k in ("n", "e", "d") if k in keys), "COLUMN")
    return (
        f"{place}: no column names the run, and {len(same)} rows have {values or 'no size'}. Is the table a log of "
        f"{len(groups)} runs, or are its rows {len(measured)} separate runs? If all rows of one {column} are one run, "
        f"say --map run={column}. If each row is a run, add a column with a name for each and say --map run=COLUMN."
    )


def _constant_columns(
    groups: Groups, rows: Sequence[Row], records: Sequence[Mapping[str, Any]], choice: ColumnChoice
) -> list[str]:
    """Columns of the file that tell apart several runs of a group, in which some steps occur several times."""
    record_of = {id(row): record for row, record in zip(rows, records, strict=True)}
    crowded = [
        (same, max(Counter(row["step"] for row in same).values()))
        for same in groups.values()
        if len({row["step"] for row in same}) < len(same)
    ]
    used = {*choice.names.values(), *(name for names in choice.beside.values() for name in names)}

    def is_constant(name: str) -> bool:
        """Whether the column has at most as many values as there are runs, and differs between rows of one step."""
        differs = False
        for same, most in crowded:
            if len({str(record_of[id(row)].get(name)) for row in same}) > most:
                return False
            at = _grouped(same, _by("step")).values()
            differs |= any(len({str(record_of[id(row)].get(name)) for row in rows}) > 1 for rows in at)
        return differs

    others = dict.fromkeys(name for record in records for name in record)
    return [name for name in others if crowded and name not in used and not is_metric(name) and is_constant(name)]


def _last_of_each_step(place: str, rows: Sequence[Row], choice: ColumnChoice) -> tuple[list[Row], list[Excluded]]:
    """Drop rows that a resumed run wrote again later. Raises DataError for two runs with one name."""
    again: dict[int, Excluded] = {}
    for run, same in _grouped([row for row in rows if not _is_empty(row.get("run"))], _by("run")).items():
        finite = [row for row in same if isinstance(row["loss"], float) and math.isfinite(row["loss"])]
        at = _grouped(finite, _by("step"))
        twice = [pair for pair in at.values() if len({row["loss"] for row in pair}) > 1]
        if not twice:
            continue
        name = str(run[0])[:60]  # type: ignore[index]
        steps = [row["step"] for row in finite]
        falls = sum(b < a for a, b in pairwise(steps))
        if len(at) == 1 or len(twice) == len(at) or falls == 0 or 2 * falls > len(steps):
            raise DataError(
                f"{twice[0][0]['source']} and {twice[0][1]['source']}: both are run '{name}' at step "
                f"{twice[0][0]['step']:g}, with losses {twice[0][0]['loss']:g} and {twice[0][1]['loss']:g}, and "
                "nothing shows that the run was resumed there. Give each run a name of its own, or choose rows with "
                "--where."
            )
        for pair in twice:
            for row in pair[:-1]:
                reason = f"run {name} was resumed and wrote step {row['step']:g} again: {pair[-1]['source']} counts"
                again[id(row)] = Excluded(str(row["source"]), reason)
    return [row for row in rows if id(row) not in again], list(again.values())
