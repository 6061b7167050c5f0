"""Verdicts in sentences, as they stand beside figures. No more digits than the intervals support."""

from __future__ import annotations

from html import escape

from matscale.core.report.analysis import Refused
from matscale.core.scaling.comparison.compare import Comparison, Pair
from matscale.core.scaling.result import Fit
from matscale.core.scaling.text import counted, number, percent, size, with_interval

OVER = {
    "n": "parameters N", "d": "training structures D", "c": "training compute C", "nd": "parameters and data",
    "frontier": "training compute C", "": "any variable",
}  # fmt: skip


def sentence(fit: Fit) -> str:
    """HTML: the verdict on one law, what it says, how far it reaches, how its test went."""
    over = OVER.get("".join(fit.axes), ", ".join(fit.axes))
    beside = f" at {escape(fit.fixed)}" if fit.fixed else ""
    head = f"{chip(fit.verdict)} <b>{escape(fit.architecture)}</b> over {over}{beside}"
    if not fit.is_law:
        why = "; ".join(escape(reason.text) for reason in fit.reasons)
        return f"{head}: no law is claimed: {why}. {_dotted(fit)}"
    return f"{head}: {exponents(fit)}, over {reach(fit)}. {held_out(fit)}"


def _dotted(fit: Fit) -> str:
    return f"The dotted line ({exponents(fit)}) is not to be used."


def exponents(fit: Fit) -> str:
    """`α = 0.25 (0.24 to 0.26)`, and the floor if there is one."""
    names = [*fit.law.exponents, *([fit.law.floor] if fit.law.floor else [])]
    factor = 1.0 if fit.target == "loss" else 1e3
    parts = []
    for name in names:
        scale = factor if name == fit.law.floor else 1.0
        low, high = (end * scale for end in fit.intervals[name])
        parts.append(f"{symbol(name)} = {with_interval(fit.parameters[name] * scale, low, high)}")
    return ", ".join(parts)


def symbol(name: str) -> str:
    return {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ"}.get(name, escape(name))


def reach(fit: Fit) -> str:
    ranges = " and ".join(f"{axis.upper()} {size(low)} to {size(high)}" for axis, (low, high) in fit.range.items())
    return (
        f"{ranges} ({counted(fit.n_sizes, 'size')}, {counted(fit.n_seeds, 'seed')}, {counted(len(fit.table), 'run')})"
    )


def held_out(fit: Fit) -> str:
    """How well the furthest size was predicted by the smaller ones."""
    if not fit.held_out:
        return "There were too few sizes to hold one out."
    held = fit.held_out[-1]
    at = ", ".join(f"{axis.upper()} = {size(value)}" for axis, value in held.at.items())
    inside = "inside" if held.covered else "outside"
    side = "high" if held.error > 0 else "low"
    return f"Held out: {at} was predicted {percent(abs(held.error))[1:]} too {side}, {inside} the 95 % interval."


def refused(one: Refused) -> str:
    if one.target == "comparison":
        return f"{chip('not comparable')} <b>{escape(one.architecture)}</b> over {OVER[one.way]}: {escape(one.reason)}"
    return f"{chip('no fit')} <b>{escape(one.architecture)}</b> over {OVER[one.way]}: {escape(one.reason)}"


def chip(verdict: str) -> str:
    """The verdict as a word in a frame: told apart by its text, not by its colour."""
    kind = "yes" if verdict in ("law", "law with floor", "broken law", "exponents differ") else "no"
    return f'<span class="chip {kind}">{escape(verdict)}</span>'


def pair_sentences(pair: Pair, comparison: Comparison) -> list[str]:
    """HTML: the test of two exponents, and what it could have seen."""
    axis = comparison.axis.upper()
    names = f"<b>{escape(pair.first)}</b> and <b>{escape(pair.second)}</b>"
    said = [
        f"{chip(pair.verdict)} {names} over {OVER[comparison.axis]}"
        + (f" at {escape(comparison.fixed)}" if comparison.fixed else "")
        + f": {escape(pair.reason) or _difference(pair)}."
    ]
    if not pair.reason:
        said.append(
            f"A true difference of 0.04 would be seen with {_share(pair.power)}; {_number(pair.smallest)} with 80 %."
        )
    if pair.ratios:
        last = pair.ratios[-1]
        ratio = with_interval(last.value, last.low, last.high)
        said.append(
            f"Loss of {escape(pair.first)} over that of {escape(pair.second)} at {axis} = {size(last.at)}: {ratio}."
        )
    if not pair.reason:
        said.append(crossing(pair, axis))
    said.append(f"To settle it: {escape(pair.settling.text)}.")
    return said


def _difference(pair: Pair) -> str:
    return f"difference of exponents {with_interval(pair.difference, *pair.interval)}, p = {_p(pair)}"


def crossing(pair: Pair, axis: str) -> str:
    if pair.crossing is None:
        return "The laws do not cross within three decades of the points."
    value, low, high = pair.crossing
    ends = f"{size(low) if low > 0 else 'below all'} to {size(high) if high < float('inf') else 'above all'}"
    return f"The laws cross at {axis} = {size(value)} (95 %: {ends})."


def _p(pair: Pair) -> str:
    if pair.p != pair.p:
        return "not defined"
    return f"{pair.p:.2g}" + (f" ({pair.p_adjusted:.2g} over all pairs)" if pair.p_adjusted != pair.p else "")


def _share(value: float) -> str:
    return "unknown probability" if value != value else f"{value:.0%} probability"


def _number(value: float) -> str:
    return "-" if value != value or value == float("inf") else f"{value:.2g}"


def ranking(comparison: Comparison) -> str:
    """One line: all architectures at the largest common value."""
    ranks = "; ".join(
        f"{k}. {escape(rank.architecture)} {number(rank.loss, rank.low, rank.high)}"
        + ("" if rank.is_law else " (by a line that is no law)")
        for k, rank in enumerate(comparison.ranking, start=1)
    )
    return f"Losses at {comparison.axis.upper()} = {size(comparison.at)}: {ranks}."
