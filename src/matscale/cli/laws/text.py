"""Text of laws, comparisons and plans for the terminal: verdicts first, digits as far as intervals support them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matscale.cli.text import aligned
from matscale.core.scaling.comparison.cheaper import details
from matscale.core.scaling.comparison.equivalence import equality_text
from matscale.core.scaling.tables.seen import seen_note
from matscale.core.scaling.text import counted, number, percent, size, with_interval
from matscale.core.scaling.verdict import LOCAL_SLOPE

if TYPE_CHECKING:
    from matscale.core.scaling.allocation.plan import Plan, Quantity
    from matscale.core.scaling.comparison.compare import Comparison
    from matscale.core.scaling.comparison.difference import Pair
    from matscale.core.scaling.result import Fit
    from matscale.core.scaling.select import Candidate
    from matscale.core.scaling.tables.table import Excluded

SHOWN = 6
"""Number of reasons, or groups, that are listed one by one; `--json` lists all."""


def fit_text(fit: Fit) -> str:
    """Describe one law: verdict, parameters, range, held-out test, reasons, excluded rows."""
    beside = f" at {fit.fixed}" if fit.fixed else ""
    whose = f"{fit.architecture}: " if fit.architecture else ""
    title = f"{whose}{fit.quantity}{beside}: {fit.verdict.upper()}"
    lines = [title]
    lines += [f"  because {reason}" for reason in fit.reasons]
    if fit.still:
        lines.append(f"  still, {fit.still}")
    lines.append(f"  {fit.formula}" + ("" if fit.is_law else f"   ({words_of(fit)})"))
    lines += [f"    {name:<8} {fit.told(name)}" for name in fit.parameters]
    ranges = ", ".join(f"{axis} {size(low)} to {size(high)}" for axis, (low, high) in fit.range.items())
    counts = ((fit.n_sizes, "size"), (fit.n_seeds, "seed"), (len(fit.table), "run"))
    lines.append(f"  range: {ranges}; {', '.join(counted(*pair) for pair in counts)} ({fit.points})")
    lines += _held_out(fit)
    lines += _groups(fit)
    if len(fit.candidates) > 1:
        lines.append(f"  forms: {'; '.join(map(_candidate, fit.candidates))}")
    lines += [f"  note: {note}" for note in fit.notes]
    return "\n".join([*lines, *excluded_text(fit.excluded)])


def words_of(fit: Fit) -> str:
    """Caveat to print beside fitted parameters that are no law."""
    if fit.verdict != LOCAL_SLOPE:
        return "as fitted; not to be extrapolated"
    return "a slope over this range, not an exponent" if fit.law.floor is None else "of this slice alone"


def _candidate(tried: Candidate) -> str:
    score = f"AICc {tried.aicc:.1f}" if math.isfinite(tried.aicc) else "too few sizes for AICc"
    missed = f"{100 * tried.extrapolation:.1f} %" if tried.n_extrapolations else "not tried"
    return f"{tried.law.name} {score}, next size {missed}"


def _held_out(fit: Fit) -> list[str]:
    lines = []
    for held in fit.held_out[-2:]:
        at = ", ".join(f"{axis} = {size(value)}" for axis, value in held.at.items())
        inside = "inside" if held.covered else "OUTSIDE"
        test = "" if held.can_fail else ", which is too wide to be a test"
        lines.append(
            f"  held out {at}: predicted {with_interval(held.predicted, held.low, held.high)}, found {held.found:.4g} "
            f"({percent(held.error)}), {inside} the 95 % interval{test}"
        )
    return lines


def _groups(fit: Fit) -> list[str]:
    """Describe the groups that lie off the law of all groups, the furthest first, and count the other groups."""
    if not fit.groups:
        return []
    whose = "that of the mean group" if fit.law.name == "mixed" else "that of the law"
    lines = [f"  groups: loss divided by {whose} at the same {' and '.join(fit.axes)}, 95 %"]
    for word, offsets in (("below", fit.groups), ("above", fit.groups[::-1])):
        off = [one for one in offsets if one.word == word]
        for one in off[:SHOWN]:
            points = counted(one.n, "point")
            lines.append(f"    {word}  {with_interval(one.ratio, one.low, one.high)}  {one.group[:60]}, {points}")
        if len(off) > SHOWN:
            lines.append(f"    {word}  {len(off) - SHOWN} more; --json lists all")
    rest = sum(not one.word for one in fit.groups)
    chance = "" if fit.law.name == "mixed" else f"; by chance, about {0.05 * len(fit.groups):.2g} would differ"
    return [*lines, f"    no significant difference: {rest} of {len(fit.groups)}{chance}"]


def excluded_text(excluded: Sequence[Excluded]) -> list[str]:
    """Describe the rows that were left out of every fit, by reason."""
    if not excluded:
        return []
    lines = [f"  excluded: {len(excluded)}"]
    by_reason: dict[str, list[str]] = {}
    for one in excluded:
        by_reason.setdefault(one.reason, []).append(one.row)
    for reason, rows in list(by_reason.items())[:SHOWN]:
        shown = ", ".join(rows[:3]) + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
        lines.append(f"    {shown}: {reason}")
    if len(by_reason) > SHOWN:
        lines.append(f"    and {sum(len(rows) for rows in list(by_reason.values())[SHOWN:])} more; --json lists all")
    return lines


def checklist_text(parts: Mapping[str, Mapping[str, str]]) -> str:
    lines = ["  checklist (arXiv:2502.18969)"]
    for part, answers in parts.items():
        lines += [f"    {part}: {question}: {answer}" for question, answer in answers.items()]
    return "\n".join(lines)


def comparison_text(result: Comparison) -> str:
    beside = f", {result.fixed}" if result.fixed else ""
    lines = [*result.cheaper, "", f"Over {result.axis}{beside}, form {result.law.formula}", ""]
    name = result.law.exponents[0]
    rows = [["architecture", "verdict", name, "sizes", "runs"]]
    for key, fit in result.fits.items():
        rows.append([key, fit.verdict, fit.told(name), str(fit.n_sizes), str(len(fit.table))])
        if joint := result.joint.get(key):
            told = result.exponent_of_joint(key)
            rows.append(["  joint law", joint.verdict, told, str(joint.n_sizes), str(len(joint.table))])
    lines.append(aligned(rows, right=(3, 4)))
    lines += [fit.verdict_with_reasons for fit in result.fits.values() if fit.reasons]
    lines += [f"note: {key}: {told}" for key, fit in result.fits.items() if (told := seen_note(fit.table))]
    lines += [f"note: {told}" for told in result.notes]
    for pair in result.pairs:
        lines += ["", *_pair(pair, result)]
    lines += ["", f"Ranking at {result.axis} = {size(result.at)} (loss by the law, 95 %)"]
    lines += [
        f"  {k}. {rank.architecture}  {with_interval(rank.loss, rank.low, rank.high)}"
        + ("" if rank.is_law else f"  {result.by(rank)}")
        for k, rank in enumerate(result.ranking, start=1)
    ]
    return "\n".join(lines)


def _pair(pair: Pair, result: Comparison) -> list[str]:
    lines = [f"{pair.first} and {pair.second}: {pair.verdict.upper()}"]
    lines += [f"  {pair.reason}"] if pair.reason else _test(pair, len(result.pairs))
    lines += [f"  {pair.note}"] if pair.note else []
    for ratio in pair.ratios:
        value = with_interval(ratio.value, ratio.low, ratio.high)
        lines.append(f"  loss of {pair.first} / {pair.second} at {result.axis} = {size(ratio.at)}: {value}")
    if not pair.reason and not pair.basis:
        lines.append(f"  {pair.crossing_text(result.axis)}")
    lines += [f"  {line}" for line in details(pair.multipliers, result.target)]
    return [*lines, f"  to settle it: {pair.settling.text}"] if pair.is_open else lines


def _test(pair: Pair, n_pairs: int) -> list[str]:
    basis, difference = f" ({pair.basis})" if pair.basis else "", with_interval(pair.difference, *pair.interval)
    adjusted = f", {pair.p_adjusted:.2g} over all pairs" if n_pairs > 1 else ""
    return [
        f"  difference of exponents{basis} {difference}, p = {pair.p:.2g}{adjusted}",
        *([f"  {equality_text(pair)}"] if pair.margin is not None else []),
        f"  a true difference of 0.04 would be seen with {pair.power:.0%}; {pair.smallest:.2g} is seen with 80 %",
    ]


def plan_text(plan: Plan, fit: Fit) -> str:
    rows = [["", "plan", "95 %"]]
    rows += [
        [label, value, "given" if q.is_given else f"{_short(q.low)} to {_short(q.high)}"]
        for label, value, q in (
            ("FLOPs", size(plan.flops.value), plan.flops),
            ("parameters n", _short(plan.n.value), plan.n),
            ("data d", _short(plan.d.value), plan.d),
            ("loss", _loss(plan.loss), plan.loss),
        )
    ]
    lines = [f"{fit.architecture}: {fit.verdict}, {fit.law.formula}", aligned(rows, right=(1, 2))]
    if plan.loss.is_given:
        lines.append(f"target loss {plan.loss.value:g}; unreachable in {plan.unreachable:.0%} of the bootstrap samples")
    if plan.speed is not None:
        lines.append(f"{plan.device_hours:.2g} hours on one {plan.speed.device} at {plan.speed.text}")
    cost = plan.cost
    lines.append(f"cost measured on the runs: C ~ n^{cost.p:.2f} d^{cost.q:.2f}, off by {cost.error:.1%}")
    lines.append(f"{plan.beyond:.2g} times the largest compute seen")
    lines += [f"note: {note}" for note in plan.notes]
    if plan.proposals:
        lines.append("most telling next runs:")
        lines += [
            f"  n = {size(p.n)} on d = {size(p.d)} ({size(p.flops)} FLOPs): removes {p.gain:.0%} of the variance"
            for p in plan.proposals
        ]
    else:
        lines.append(
            "no next run is proposed: the points have no scatter, as from a formula, so no run would reduce it"
        )
    return "\n".join(lines)


def _short(value: float) -> str:
    """Round to two digits, since an optimum is known no more precisely."""
    return size(float(f"{value:.2g}"))


def _loss(loss: Quantity) -> str:
    return f"{loss.value:g}" if loss.is_given else number(loss.value, loss.low, loss.high)
