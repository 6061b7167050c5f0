"""Sentences on verdicts, for the text beside figures. Numbers have the digits that their intervals support.

Sentences are `Markup`, whose `format` escapes its arguments, so that a name from a run's record cannot inject HTML.
"""

from __future__ import annotations

from markupsafe import Markup

from matscale.core.report.analysis import Refused
from matscale.core.scaling.comparison.cheaper import details, sentences
from matscale.core.scaling.comparison.compare import Comparison
from matscale.core.scaling.comparison.difference import Pair
from matscale.core.scaling.result import Fit
from matscale.core.scaling.tables.seen import seen_note
from matscale.core.scaling.text import counted, listed, number, percent, size, with_interval
from matscale.core.scaling.verdict import LAWS, LOCAL_SLOPE

OVER = {
    "n": "parameters N", "d": "training structures D", "c": "training compute C", "nd": "parameters and data",
    "frontier": "training compute C", "": "any variable",
}  # fmt: skip


def sentence(fit: Fit) -> Markup:
    """Describe a law in sentences: its verdict, exponents and range, and its test on held-out sizes."""
    over = OVER.get("".join(fit.axes), ", ".join(fit.axes))
    beside = f" at {fit.fixed}" if fit.fixed else ""
    head = Markup("{} <b>{}</b> over {}").format(chip(fit.verdict), fit.architecture, over + beside)
    if fit.verdict == LOCAL_SLOPE:
        why = "; ".join(reason.text for reason in fit.reasons)
        slope = "{}: a slope of {} over {}, not an exponent: {}. {}{}"
        told = Markup(slope if fit.law.floor is None else "{}: {} over {}, for this slice alone: {}. {}{}")
        return told.format(head, exponents(fit), reach(fit), why, held_out(fit), _notes(fit))
    if not fit.is_law:
        why = "; ".join(reason.text for reason in fit.reasons)
        still = f" Still, {fit.still}." if fit.still else ""
        return Markup("{}: no law is claimed: {}.{} {}{}").format(head, why, still, _dotted(fit), _notes(fit))
    return Markup("{}: {}, over {}. {}{}").format(head, exponents(fit), reach(fit), held_out(fit), _notes(fit))


def _notes(fit: Fit) -> str:
    return "".join(f" Note: {note}." for note in fit.notes)


def remarks(fit: Fit) -> Markup:
    """Reasons against a law and notes on it, one per line, for the text beside its verdict."""
    still = [f"still, {fit.still}"] if fit.still else []
    return Markup("<br>").join([*(f"because {reason}" for reason in fit.reasons), *still, *fit.notes])


def _dotted(fit: Fit) -> str:
    return f"The dotted line ({exponents(fit)}) is not to be extrapolated."


def exponents(fit: Fit) -> str:
    """Format the exponents of a law: `α = 0.25 (0.24 to 0.26)`, and its floor if it has one."""
    names = [*fit.law.exponents, *([fit.law.floor] if fit.law.floor else [])]
    factor = 1.0 if fit.target == "loss" else 1e3
    parts = []
    for name in names:
        scale = factor if name == fit.law.floor else 1.0
        parts.append(f"{symbol(name)} = {fit.told(name, scale)}")
    return ", ".join(parts)


def apart(fit: Fit) -> list[str]:
    """Sentences that name the groups whose loss lies significantly below or above the law of all groups."""
    said = []
    for word in ("below", "above"):
        off = [f"{one.group} ({with_interval(one.ratio, one.low, one.high)})" for one in fit.groups if one.word == word]
        if off:
            said.append(f"Loss {word} the loss of the mean architecture at the same size: {listed(off)}.")
    return said or ["No architecture differs significantly from the mean of all at the same size."]


def symbol(name: str) -> str:
    return {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ"}.get(name, name)


def reach(fit: Fit) -> str:
    ranges = " and ".join(f"{axis.upper()} {size(low)} to {size(high)}" for axis, (low, high) in fit.range.items())
    return (
        f"{ranges} ({counted(fit.n_sizes, 'size')}, {counted(fit.n_seeds, 'seed')}, {counted(len(fit.table), 'run')})"
    )


def held_out(fit: Fit) -> str:
    """Sentence that says how well the smaller sizes predict the largest one."""
    if not fit.held_out:
        return "There were too few sizes to hold one out."
    held = fit.held_out[-1]
    at = ", ".join(f"{axis.upper()} = {size(value)}" for axis, value in held.at.items())
    inside = "inside" if held.covered else "outside"
    test = "" if held.can_fail else ", which is too wide to be a test"
    side = "high" if held.error > 0 else "low"
    return f"Held out: {at} was predicted {percent(abs(held.error))[1:]} too {side}, {inside} the 95 % interval{test}."


def refused(one: Refused) -> Markup:
    badge = chip("not comparable" if one.target == "comparison" else "no fit")
    return Markup("{} <b>{}</b> over {}: {}").format(badge, one.architecture, OVER[one.way], one.reason)


def chip(verdict: str) -> Markup:
    """Verdict as a word in a frame, which can be read without seeing colours."""
    kind = "yes" if verdict in (*LAWS, "exponents differ") else "part" if verdict == LOCAL_SLOPE else "no"
    return Markup('<span class="chip {}">{}</span>').format(kind, verdict)


def pair_sentences(pair: Pair, comparison: Comparison) -> list[str]:
    """Sentences on a pair of architectures: the test of their exponents, and the smallest difference it could find."""
    axis = comparison.axis.upper()
    over = OVER[comparison.axis] + (f" at {comparison.fixed}" if comparison.fixed else "")
    head = Markup("{} <b>{}</b> and <b>{}</b> over {}").format(chip(pair.verdict), pair.first, pair.second, over)
    said: list[str] = [Markup("{}: {}.").format(head, pair.reason or _difference(pair))]
    said += [f"These are {pair.note}."] if pair.note else []
    if not pair.reason:
        said.append(
            f"A true difference of 0.04 would be seen with {_share(pair.power)}; {_number(pair.smallest)} with 80 %."
        )
    if pair.ratios:
        last = pair.ratios[-1]
        ratio = with_interval(last.value, last.low, last.high)
        said.append(f"Loss of {pair.first} over that of {pair.second} at {axis} = {size(last.at)}: {ratio}.")
    if not pair.reason and not pair.basis:
        said.append(f"T{pair.crossing_text(axis)[1:]}.")
    said += [f"To settle it: {pair.settling.text}."] if pair.is_open else []
    tables = {name: comparison.fits[name].table for name in (pair.first, pair.second)}
    said += [f"{name}: {told}." for name, table in tables.items() if (told := seen_note(table))]
    return said


def cheaper(comparison: Comparison) -> list[str]:
    """Text on each pair of architectures: how much each needs for the same loss, by quantity and along the curve."""
    told = []
    for pair in comparison.facing_first:
        lines = [*sentences(pair.multipliers, comparison.target), *details(pair.multipliers, comparison.target)]
        names = (pair.first, pair.second)  # which stay as they are written
        lines = [line if line.startswith(names) else f"{line[0].upper()}{line[1:]}" for line in lines]
        told.append(" ".join(f"{line}." for line in lines))
    if len(told) < len(comparison.pairs):
        best = comparison.ranking[0].architecture
        told.append(f"Each is compared with {best}, the first of the ranking; matscale compare has all pairs.")
    return told


def _difference(pair: Pair) -> str:
    basis = f" ({pair.basis})" if pair.basis else ""
    return f"difference of exponents{basis} {with_interval(pair.difference, *pair.interval)}, p = {_p(pair)}"


def _p(pair: Pair) -> str:
    if pair.p != pair.p:
        return "not defined"
    return f"{pair.p:.2g}" + (f" ({pair.p_adjusted:.2g} over all pairs)" if pair.p_adjusted != pair.p else "")


def _share(value: float) -> str:
    return "unknown probability" if value != value else f"{value:.0%} probability"


def _number(value: float) -> str:
    return "-" if value != value or value == float("inf") else f"{value:.2g}"


def ranking(comparison: Comparison) -> str:
    """Sentence that ranks all architectures by their loss at the largest size that all have."""
    ranks = "; ".join(
        f"{k}. {rank.architecture} {number(rank.loss, rank.low, rank.high)}"
        + ("" if rank.is_law else f" {comparison.by(rank)}")
        for k, rank in enumerate(comparison.ranking, start=1)
    )
    return f"Losses at {comparison.axis.upper()} = {size(comparison.at)}: {ranks}."
