"""Compare how architectures scale: their exponents, fitted to means per size, and what each needs for the same loss.

Each architecture has its own law, and its sizes scatter about the law by their own amount. The difference of two
exponents, divided by its standard error, is compared with Student's t with the degrees of freedom of Welch and
Satterthwaite. This test finds a difference between equal exponents in 4 to 7 % of the cases (docs/laws.md). A bootstrap
over seeds would find one in 9 to 77 %, since sizes usually scatter more than seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations
from typing import Any

import numpy as np

from matscale.core.errors import ConfigError, DataError, did_you_mean
from matscale.core.files import finite
from matscale.core.scaling.comparison.cheaper import refuse_far, sentences
from matscale.core.scaling.comparison.difference import DIFFERENT, LOCAL, NOT_SHOWN, Pair, overlap, tested
from matscale.core.scaling.comparison.equivalence import check_margin, holm, tested_for_equality
from matscale.core.scaling.comparison.joint_pairs import JointExponent, compared, exponent_along
from matscale.core.scaling.comparison.multipliers import ArchitectureLaws, multipliers
from matscale.core.scaling.fit import Options, beside, joint_law, refuse_single_rows, unbroken
from matscale.core.scaling.intervals import LEVEL
from matscale.core.scaling.law import Array, Law
from matscale.core.scaling.means import BESIDE, HELD, Means, hold, refuse_mixed_costs, size_means, slice_of
from matscale.core.scaling.one_variable import check_enough, fit_means
from matscale.core.scaling.result import Fit, lowest_bar
from matscale.core.scaling.tables.labels import differing_labels
from matscale.core.scaling.tables.table import Table, groups
from matscale.core.scaling.text import listed
from matscale.core.scaling.verdict import LOCAL_SLOPE, learning


@dataclass(frozen=True)
class Rank:
    """Place of an architecture in the ranking: its loss at the value of the variable where all are compared."""

    architecture: str
    loss: float
    low: float
    high: float
    is_law: bool
    """Whether the loss comes from an accepted law; otherwise it comes from a straight line through the sizes"""


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison of architectures over one variable: their laws, tests of pairs, and a ranking."""

    axis: str
    law: Law
    fixed: str
    fits: dict[str, Fit]
    pairs: tuple[Pair, ...]
    at: float
    """Value of the variable at which losses are ranked: the largest that all architectures reach"""
    ranking: tuple[Rank, ...]
    joint: Mapping[str, Fit] = field(default_factory=dict)
    """Accepted joint laws by architecture behind some number: compared exponents, or what is needed for a loss"""
    target: str = "loss"
    notes: tuple[str, ...] = ()
    """Other differences between the architectures that the table shows, such as labels"""

    def exponent_of_joint(self, name: str) -> str:
        """Text of the exponent of the compared variable by the joint law of the architecture `name`, or why not."""
        found = exponent_along(self.joint[name], self.axis)
        return found.text if isinstance(found, JointExponent) else found

    @property
    def cheaper(self) -> list[str]:
        """Sentences on how much of each resource an architecture and the best of the ranking need for the same loss."""
        pairs = sorted(self.facing_first, key=lambda pair: not any(one.points for one in pair.multipliers))
        return [told for pair in pairs for told in sentences(pair.multipliers, self.target)]

    def by(self, rank: Rank) -> str:
        """Remark on an architecture in the ranking that has no law; empty if it has one."""
        if rank.is_law:
            return ""
        fit = self.fits[rank.architecture]
        is_slice = fit.verdict == LOCAL_SLOPE and fit.law.floor is not None
        return "(by the law of a slice)" if is_slice else "(by a line that is no law)"

    @property
    def facing_first(self) -> list[Pair]:
        """Pairs of architectures that contain the first of the ranking."""
        first = self.ranking[0].architecture
        return [pair for pair in self.pairs if first in (pair.first, pair.second)]

    def plain(self) -> dict[str, Any]:
        values = {
            "axis": self.axis,
            "law": self.law.name,
            "fixed": self.fixed or None,
            "fits": {name: fit.plain() for name, fit in self.fits.items()},
            "joint": {name: fit.plain() for name, fit in self.joint.items()},
            "exponents_of_joint": {name: self.exponent_of_joint(name) for name in self.joint},
            "cheaper": self.cheaper,
            "pairs": [_plain_pair(pair) for pair in self.pairs],
            "ranking": [{**vars(rank), "at": self.at} for rank in self.ranking],
            "notes": list(self.notes),
        }
        plain: dict[str, Any] = finite(values)
        return plain


def _plain_pair(pair: Pair) -> dict[str, Any]:
    plain = {**vars(pair), "interval": list(pair.interval), "ratios": [vars(r) for r in pair.ratios]}
    plain["multipliers"] = [one.plain() for one in pair.multipliers]
    plain["settling"] = vars(pair.settling) if pair.is_open else None
    return {**plain, "crossing": list(pair.crossing) if pair.crossing else None}


def compare(
    table: Table,
    architectures: Sequence[str],
    laws: Sequence[Law],
    *,
    axis: str | None = None,
    target: str = "loss",
    at: float | None = None,
    at_loss: Sequence[float] = (),
    margin: float | None = None,
) -> Comparison:
    """Compare architectures over the variable `axis`; by default, compute if every run has it, else parameters.

    If `architectures` is empty, all those of the table are compared. `laws` are forms in one variable, the plain power
    first. Multipliers are stated at the losses `at_loss`. If `margin` is given, exponents are also tested for equality
    within it. Raises ConfigError for an unknown name, a loss outside the points or a margin that is not positive, and
    DataError if an architecture has fewer than three sizes.
    """
    check_margin(margin)
    names = list(dict.fromkeys(architectures)) or table.architectures
    for name in names:
        if name not in table.architectures:
            raise ConfigError(f"There are no runs of {name!r}. {did_you_mean(name, table.architectures)}")
    if len(names) < 2:
        raise ConfigError(f"A comparison needs at least two architectures; the table has {', '.join(names) or 'none'}.")
    named = table.take(np.isin(table.words["arch"], names))
    refuse_single_rows(named)
    axis = axis or ("c" if named.has("c") else "n")
    parts, fixed = _slices({name: table.of_architecture(name).ends() for name in names}, axis, at)
    notes = differing_labels(parts)
    means, no_learning = {}, {}
    for name, part in parts.items():
        refuse_mixed_costs(part, axis)
        bar = lowest_bar(part, target)
        raw = size_means(part, axis, fixed)
        no_learning[name] = learning(np.exp(raw.y), bar)
        if bar is not None and not any(r.is_no_learning for r in no_learning[name]):
            part = part.keep(part["loss"] < bar[1], f"does not beat the baseline {bar[0]} ({bar[1]:.4g})")
        means[name] = size_means(part, axis, fixed)
    _check_enough(means)
    owns = {name: fit_means(m, unbroken(laws), target, no_learning[name]) for name, m in means.items()}
    law = _common_form(owns, laws)
    fits = {name: fit_means(means[name], [law], target, no_learning[name]) for name in names}
    joints = {name: joint_law(table.of_architecture(name), Options(target=target, samples=300)) for name in names}
    fits = {name: beside(fit, joints[name]) for name, fit in fits.items()}
    used = {
        name: joint
        for name, joint in joints.items()
        if joint is not None and joint.is_law
        if joint.verdict == "law with floor" or fits[name].verdict == LOCAL_SLOPE
    }
    found = [tested(a, b, means, fits, law) for a, b in combinations(names, 2)]
    pairs = _adjusted([compared(pair, joints, fits, axis) for pair in found])
    pairs = tested_for_equality(pairs, margin) if margin is not None else pairs
    subjects = {
        name: ArchitectureLaws(beside(own, joints[name]), means[name], _standing(joints[name]), name in used, number)
        for number, (name, own) in enumerate(owns.items())
    }
    pairs = [
        replace(pair, multipliers=multipliers(subjects[pair.first], subjects[pair.second], axis, fixed, at_loss))
        for pair in pairs
    ]
    behind = {name for pair in pairs if pair.basis for name in (pair.first, pair.second)}
    behind |= {
        name
        for pair in pairs
        for one in pair.multipliers
        for name, law in zip((one.first, one.second), one.laws)
        if law.startswith("joint law")
    }
    shown = {
        name: joint for name in names if (joint := _standing(joints[name])) is not None and name in {*used, *behind}
    }
    refuse_far(list(chain.from_iterable(pair.multipliers for pair in pairs)), at_loss)
    where, ranking = _ranking(means, fits)
    return Comparison(axis, law, fixed, fits, tuple(pairs), where, tuple(ranking), shown, target, tuple(notes))


def _standing(joint: Fit | None) -> Fit | None:
    return joint if joint is not None and joint.is_law else None


def _check_enough(means: Mapping[str, Means]) -> None:
    """Raises DataError, with the names of the architectures that have fewer than three sizes."""
    few = {}
    for name, of_name in means.items():
        try:
            check_enough(of_name)
        except DataError as error:
            few[name] = error
    if len(few) == 1:
        raise DataError(f"{next(iter(few))}: {next(iter(few.values()))} To compare the others, name them with --arch.")
    if few:
        left = len(means) - len(few)
        others = f"the {left} others, name them with --arch" if left > 1 else "them, train more sizes"
        raise DataError(
            f"{len(few)} architectures ({listed(list(few))}) have fewer than 3 sizes, too few to compare. To compare "
            f"{others}; matscale fit --law mixed takes all architectures together."
        )


def _slices(parts: dict[str, Table], axis: str, at: float | None) -> tuple[dict[str, Table], str]:
    """Choose the runs of each architecture at one value of the other variable: of data, for a law in n or c.

    Returns the tables by architecture, and a sentence on the value.
    """
    other = "d" if axis == "c" else BESIDE.get(axis)
    if axis == "d" or other is None or not all(part.has(other) for part in parts.values()):
        sliced = {name: slice_of(part, axis, at) for name, part in parts.items()}
        notes = {name: note for name, (_, note) in sliced.items() if note}
        fixed = "; ".join(f"{name} at {note}" for name, note in notes.items())
        return {name: part for name, (part, _) in sliced.items()}, fixed
    values = sorted({float(v) for part in parts.values() for v in part[other]})
    levels = groups(np.array(values))
    centres = [float(np.exp(np.log(np.array(values)[levels == k]).mean())) for k in range(int(levels.max()) + 1)]
    key = "n" if axis == "c" and all(p.has("n") for p in parts.values()) else axis

    def sizes(value: float) -> int:
        return min(len(set(groups_at(part, other, value, key))) for part in parts.values())

    chosen = min(centres, key=lambda v: abs(np.log(v / at))) if at else max(centres, key=lambda v: (sizes(v), v))
    if at is not None and not _near(np.array([chosen]), at).any():
        raise DataError(f"No runs have {other} = {at:g}. Choose one of: {', '.join(f'{v:,.0f}' for v in centres)}.")
    if sizes(chosen) == 0:
        known = ", ".join(f"{v:,.0f}" for v in centres)
        raise DataError(f"No value of {other} ({known}) occurs in all architectures. Train all of them at one {other}.")
    fixed = f"{other} = {chosen:,.0f}" if len(centres) > 1 else ""
    kept = {
        name: part.keep(_near(part[other], chosen), f"its {other} differs: all are compared at {other} = {chosen:,.0f}")
        for name, part in parts.items()
    }
    rest = {name: hold(part, axis, [o for o in HELD.get(axis, ()) if o != other]) for name, part in kept.items()}
    held = [note for _, note in rest.values()]
    own = [f"{name} at {note}" for name, (_, note) in rest.items() if note] if len(set(held)) > 1 else held[:1]
    fixed = ", ".join(filter(None, [fixed, *own]))
    return {name: part for name, (part, _) in rest.items()}, fixed


def groups_at(part: Table, other: str, value: float, key: str) -> list[int]:
    """Index of the size (column `key`) of each run whose value in the column `other` is close to `value`."""
    near = part[key][_near(part[other], value)]
    return groups(near).tolist() if len(near) else []


def _near(values: Array, value: float) -> np.ndarray:
    return np.asarray(np.abs(np.log(values / value)) < 0.02)


def _common_form(owns: Mapping[str, Fit], laws: Sequence[Law]) -> Law:
    """Choose the form of law to compare: one with a floor only if the law of every architecture has a floor.

    Exponents of laws with and without a floor are not comparable.
    """
    chosen = {fit.law.name for fit in owns.values()}
    return next((law for law in laws if law.name in chosen), laws[0]) if len(chosen) == 1 else laws[0]


def _adjusted(pairs: list[Pair]) -> list[Pair]:
    """Correct the p-values of all tested pairs for the number of tests (Holm's step-down), and set their verdicts."""
    adjusted = holm([pair.p for pair in pairs])
    return [
        replace(
            pair,
            p_adjusted=p,
            verdict=(LOCAL if pair.note else DIFFERENT)
            if pair.verdict == NOT_SHOWN and p < 1 - LEVEL
            else pair.verdict,
        )
        for pair, p in zip(pairs, adjusted, strict=True)
    ]


def _ranking(means: dict[str, Means], fits: dict[str, Fit]) -> tuple[float, list[Rank]]:
    at = float(np.exp(overlap(*means.values())[1]))
    ranks = []
    for name, fit in fits.items():
        loss, low, high = fit.predict(at, new=False)
        ranks.append(Rank(name, loss, low, high, fit.is_law))
    return at, sorted(ranks, key=lambda rank: rank.loss)
