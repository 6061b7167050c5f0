"""Multipliers: how many times as much of a resource one architecture needs as another for the same loss.

This module has the data and the sentences; `multipliers` computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from matscale.core.errors import ConfigError
from matscale.core.scaling.tables.from_runs import ERRORS
from matscale.core.scaling.tables.table import SAME
from matscale.core.scaling.text import listed, with_interval

BEST = "the best n and d of each"
"""`Multiplier.basis` for compute, if each architecture has its best n and d by its own joint law."""
UNKNOWN = "an unknown multiple"


@dataclass(frozen=True)
class Point:
    """Multiplier of two architectures at one loss, with its interval."""

    loss: float
    value: float
    low: float
    high: float

    @property
    def turned(self) -> Point:
        """Inverse multiplier: what the second architecture needs over what the first needs."""
        value, low, high = (1 / v if v > 0 else float("inf") for v in (self.value, self.high, self.low))
        return Point(self.loss, value, low, high)

    @property
    def text(self) -> str:
        """Multiplier with its interval as text, such as `2.6 × (1.9 to 3.4)`.

        If the interval spans two decades, the text is `an unknown multiple` with the interval.

        >>> Point(loss=5.2, value=2.63, low=1.88, high=3.41).text, Point(5.2, 1.62, 0.012, float("inf")).text
        ('2.6 × (1.9 to 3.4)', 'an unknown multiple (0.012 to ∞)')
        """
        if not self.high < 100 * self.low:
            return f"{UNKNOWN} ({_shown(self.low, 2)} to {_shown(self.high, 2)})"
        digits = 2 + int(np.searchsorted([-1.1, -1.01, -1.001], -self.high / self.low, side="right"))
        value, low, high = (_shown(v, digits) for v in (self.value, self.low, self.high))
        return f"{value} × ({low} to {high})" if low != high else f"{value} × (no scatter)"


def _shown(value: float, digits: int) -> str:
    """Format a positive number with `digits` significant digits: 0.80, 2.6, 1,900."""
    if not np.isfinite(value) or value == 0:
        return "∞" if value else "0"
    kept = float(f"{value:.{digits}g}")
    return f"{kept:,.0f}" if 10 ** (digits - 1) <= kept < 1e6 else f"{kept:#.{digits}g}"


@dataclass(frozen=True)
class Multiplier:
    """Ratio of the amounts of a resource that two architectures need for the same loss: first over second."""

    first: str
    second: str
    axis: str
    """The resource: c, hours, n or d"""
    what: str
    """The resource in words: FLOPs, hours, parameters, data"""
    basis: str
    """Value that is held fixed, such as `d = 301,300`; or `the best n and d of each`, by joint laws"""
    points: tuple[Point, ...] = ()
    """Multipliers at several losses that the points of both architectures cover, the lowest loss first; may be empty"""
    asked: tuple[Point, ...] = ()
    """Multipliers at the losses that the user asked for, as far as the points of both architectures cover them"""
    floor: tuple[str, float, float, float] | None = None
    """(architecture, loss, low, high): this architecture reaches no loss below its floor, whatever the amount"""
    reason: str = ""
    """Reason why there is no multiplier; empty if there is one"""
    notes: tuple[str, ...] = ()
    outside: tuple[tuple[float, str], ...] = ()
    """Losses that the user asked for and at which there is no multiplier, each with the reason"""
    laws: tuple[str, str] = ("", "")
    """Law of each architecture that the multipliers follow from: `joint law nd`, `law power in c`; may be empty"""

    @property
    def by(self) -> str:
        """Clause that names the laws behind the multipliers: `by the joint law nd of each`; empty without laws."""
        first, second = self.laws
        if not first or not second:
            return ""
        return (
            f"by the {first} of each"
            if first == second
            else f"by the {first} of {self.first} and the {second} of {self.second}"
        )

    @property
    def turned(self) -> Multiplier:
        """Copy with the architectures exchanged: what the second needs over what the first needs."""
        points, asked = (tuple(p.turned for p in those) for those in (self.points, self.asked))
        laws = (self.laws[1], self.laws[0])
        return replace(self, first=self.second, second=self.first, points=points, asked=asked, laws=laws)

    def plain(self) -> dict[str, Any]:
        floor = dict(zip(("architecture", "loss", "low", "high"), self.floor)) if self.floor else None
        return {
            "first": self.first,
            "second": self.second,
            "axis": self.axis,
            "what": self.what,
            "basis": self.basis or None,
            "points": [vars(point) for point in self.points],
            "asked": [vars(point) for point in self.asked],
            "outside": [{"loss": loss, "reason": reason} for loss, reason in self.outside],
            "laws": {self.first: self.laws[0], self.second: self.laws[1]} if self.by else None,
            "no_answer_from": floor,
            "reason": self.reason or None,
            "notes": list(self.notes),
        }


def refuse_far(found: Sequence[Multiplier], at_loss: Sequence[float]) -> None:
    """Raises ConfigError for a loss in `at_loss` at which no pair of architectures has a multiplier."""
    known = [one for one in found if one.points]
    for loss in at_loss:
        if any(abs(np.log(point.loss / loss)) < 1e-9 for one in known for point in one.asked if loss > 0):
            continue
        ranges = {f"{one.first} and {one.second}": _range(one) for one in known}
        told = "; ".join(f"{pair} {ends}" for pair, ends in list(ranges.items())[:5])
        if not told:
            why = "; ".join(dict.fromkeys(one.reason for one in found))
            raise ConfigError(f"--at-loss {loss:g}: no multiplier can be stated: {why}.")
        raise ConfigError(
            f"--at-loss {loss:g}: no two architectures have points on both sides of this loss. Choose a loss that the "
            f"points of two architectures cover: {told}."
        )


def _range(one: Multiplier) -> str:
    return f"{one.points[0].loss:.4g} to {one.points[-1].loss:.4g}"


def facing(found: Sequence[Multiplier]) -> list[Multiplier]:
    """Multipliers of a pair of architectures, exchanged if necessary so that the first known one is at least 1."""
    first = next(((one.asked or one.points)[0] for one in found if one.points), None)
    return [one.turned for one in found] if first is not None and first.value < 1 else list(found)


def sentences(found: Sequence[Multiplier], target: str) -> list[str]:
    """Sentences that compare what two architectures need for the same loss: one for each basis and each loss."""
    told = []
    for basis in dict.fromkeys(one.basis for one in found):
        group = [one for one in facing(found) if one.basis == basis]
        known = [one for one in group if one.points]
        if known:
            told += [_sentence(stated, target) for stated in _by_loss(known)]
            told += [f"{left_out}, {reason}" for left_out, reason in _outside(known, target)]
        elif basis != BEST:
            one = group[0]
            told.append(
                f"For the same {noun(target)}, it is unknown how much {one.first} needs, compared with {one.second}: "
                f"{one.reason}"
            )
    return told


def _by_loss(known: Sequence[Multiplier]) -> list[list[tuple[Multiplier, Point]]]:
    """Multipliers to be stated at each loss: at the losses that the user asked for, or else at the lowest."""
    asked = dict.fromkeys(point.loss for one in known for point in one.asked)
    if asked or any(one.outside for one in known):
        return [[(one, point) for one in known for point in one.asked if point.loss == loss] for loss in asked]
    lowest = known[0].points[0].loss
    return [[(one, one.points[0]) for one in known if abs(np.log(one.points[0].loss / lowest)) < SAME]]


def _outside(known: Sequence[Multiplier], target: str) -> list[tuple[str, str]]:
    """Sentences on the losses that the user asked for and that lie outside the points, each with the reason."""
    losses = dict.fromkeys(loss for one in known for loss, _ in one.outside)
    told = []
    for loss in losses:
        reasons = {reason: one for one in known for other, reason in one.outside if other == loss}
        for reason, one in reasons.items():
            what = "" if all(loss in dict(other.outside) for other in known) else f" in {one.what}"
            where = f" ({one.basis})" if one.basis else ""
            head = f"For the same {noun(target)} of {loss:.4g}, it is unknown how much {one.first} needs{what}, "
            told.append((f"{head}compared with {one.second}{where}", reason))
    return told


def _sentence(stated: Sequence[tuple[Multiplier, Point]], target: str) -> str:
    parts = [
        f"{point.text} {'of ' if point.text.startswith(UNKNOWN) else ''}the {multiplier.what}"
        for multiplier, point in stated
    ]
    one, point = stated[0]
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    where = f"at {point.loss:.4g}" + ("" if one.asked else ", the lowest that both have points for")
    where += f"; {one.basis}" if one.basis else ""
    return f"For the same {noun(target)}, {one.first} needs {listed} of {one.second} ({where})"


def noun(target: str) -> str:
    """Name of the fitted quantity in sentences: `loss`, `forces error`, or the name of the column."""
    return f"{target} error" if target in ERRORS and target != "loss" else target


def _is_unknown_like(one: Multiplier, other: Multiplier) -> bool:
    """Whether a multiplier is unknown for the same reason as another one, on the same basis."""
    return not one.points and (one.basis, one.reason) == (other.basis, other.reason)


def details(found: Sequence[Multiplier], target: str) -> list[str]:
    """Lines of text on a pair of architectures: multipliers at several losses, notes, losses that one never reaches."""
    lines = []
    ways = facing(found)
    for one in ways:
        name = f"{one.what} of {one.first} / {one.second}" + (f" at {BEST}" if one.basis == BEST else "")
        if one.points:
            curve = (one.points[-1], one.points[len(one.points) // 2], one.points[0])
            shown = one.asked if one.asked or one.outside else curve
            told = [f"{point.text} at {point.loss:.4g}" for point in shown]
            told += [f"unknown at {loss:.4g}, {reason}" for loss, reason in one.outside]
            lines.append(f"{name} for the same {noun(target)}{one.by and f', {one.by}'}: {', '.join(told)}")
        elif one is next(other for other in ways if _is_unknown_like(other, one)):
            names = listed([other.what for other in ways if _is_unknown_like(other, one)], by=" and ")
            lines.append(f"{names}{name.removeprefix(one.what)}: unknown: {one.reason}")
        lines += one.notes
        if one.floor:
            name, *ends = one.floor
            held = f" ({one.basis})" if one.basis else ""
            lines.append(f"no answer below a {noun(target)} of {with_interval(*ends)}: {name} never reaches it{held}")
    return list(dict.fromkeys(lines))
