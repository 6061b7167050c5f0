"""Collapse check: whether the normalised training curves of all model sizes agree, and which size deviates.

A curve is reduced to two numbers, the means of ln(loss / final loss) over the first and over the second half of the
run; ln(loss / final loss) is called the fall of the curve. Floors and finite data make the fall drift with size, which
a line in ln of the varying quantities (n, d, structures seen) describes. A size deviates if its fall lies so far from
the line through the other sizes that chance causes this in only one of twenty sweeps. The test uses Student's t of the
deleted residual, with Bonferroni's correction for all sizes and both halves. It is exact for noise of equal variance,
however the noise is correlated along a run; if the roughness of the curves changes with size, sizes are weighted
accordingly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from matscale.core.scaling.curves.normalised import BEGIN, LEAST, Curve, cells, curves, relative_noise, varying
from matscale.core.scaling.law import Array
from matscale.core.scaling.tables.table import Table
from matscale.core.scaling.text import counted, percent, size

CHANCE = 0.05
"""Rate of false alarms: share of sweeps without a fault in which the check reports a size."""
HALVES = ((BEGIN, 0.5), (0.5, 1.0))
LATEST = 1 / 3
"""Share of a run by which its first validation must have been made."""
POINTS = 50
"""Number of points in each half over which the mean is taken."""


@dataclass(frozen=True)
class Off:
    """Model size whose training curves deviate from those of the other sizes."""

    size: Mapping[str, float]
    excess: float
    """Relative deviation of (mid-run loss / final loss) from the value that the other sizes give"""
    p: float
    """Probability of a deviation this large in a sweep without a fault"""

    @property
    def place(self) -> str:
        return ", ".join(f"{axis} = {size(value)}" for axis, value in self.size.items())


@dataclass(frozen=True)
class Collapse:
    """Result of the collapse check: whether the normalised training curves of one architecture agree across sizes."""

    architecture: str
    curves: tuple[Curve, ...] = ()
    n_sizes: int = 0
    off: tuple[Off, ...] = ()
    """Sizes that deviate, the furthest first"""
    scatter: float = 0.0
    """Scatter of the sizes about the line through their mean falls: a standard deviation, in ln of the loss."""
    untested: str = ""
    """Reason why no test was possible; empty if there was one"""

    @property
    def text(self) -> str:
        """Sentence with the result, without a full stop."""
        if self.untested:
            return f"not tested: {self.untested}"
        if not self.off:
            return f"the curves of {counted(self.n_sizes, 'size')} agree to {100 * self.scatter:.1f} %"
        listed = "; ".join(
            f"{one.place} deviates: its ratio of mid-run loss to final loss differs by {percent(one.excess)} from that "
            f"of the others (p = {one.p:.1g})"
            for one in self.off
        )
        return (
            f"of {counted(self.n_sizes, 'size')}, {listed}. Check its learning rate, schedule and data before you fit "
            "a law"
        )


def collapse(table: Table) -> Collapse:
    """Check whether the normalised training curves of one architecture agree; `table` has a row per validation."""
    return check(curves(table), table.architectures[0] if len(table) else "")


def check(runs: Sequence[Curve], name: str = "") -> Collapse:
    """Check whether the normalised training curves `runs` of the architecture `name` agree across sizes."""
    found = [curve for curve in runs if curve.share[0] <= LATEST]
    if not found:
        return Collapse(
            name,
            untested="no run has three validations before its last one, the first of them in its first third",
        )
    sizes = cells(found)
    centres = [_centre(members) for members in sizes]
    falls = np.array([np.mean([_falls(curve) for curve in members], axis=0) for members in sizes])
    axes = varying(centres)
    x = np.column_stack([np.ones(len(sizes)), *(np.log([c[axis] for c in centres]) for axis in axes)])
    off, scatter, untested = _off(x, falls, relative_noise(x, sizes, x))
    named = [
        Off({axis: centres[k][axis] for axis in axes}, float(np.expm1(excess)), p)
        for k, excess, p in sorted(off, key=lambda one: one[2])
    ]
    return Collapse(name, tuple(found), len(sizes), tuple(named), scatter, untested)


def collapses(table: Table) -> dict[str, Collapse]:
    """Collapse check of each architecture, by name; empty if the table has no training curves."""
    if not table.has_curves:
        return {}
    return {name: collapse(table.of_architecture(name)) for name in table.architectures}


def _centre(members: list[Curve]) -> dict[str, float]:
    """Geometric mean over runs of each of their sizes (n, d, structures seen)."""
    return {axis: float(np.exp(np.mean([np.log(one.size[axis]) for one in members]))) for axis in members[0].size}


def _falls(curve: Curve) -> Array:
    """Means of ln(loss / final loss) over the first and the second half of a run [2]."""
    begin = max(BEGIN, float(curve.share[0]))
    return np.array([curve.fall(np.linspace(max(low, begin), high, POINTS)).mean() for low, high in HALVES])


def _off(x: Array, falls: Array, noise: Array) -> tuple[list[tuple[int, float, float]], float, str]:
    """Find the sizes that deviate.

    Returns (index, deviation, p) of each, the scatter of the other sizes, and the reason if no test was possible. The
    furthest size is removed, then the furthest of the rest, up to a quarter of the sizes. All sizes up to the last
    significant one are reported (Rosner 1983), since two deviating sizes may hide each other.
    """
    kept = np.arange(len(falls))
    x, falls = x / noise[:, None], falls / noise[:, None]
    if _freedom(x) < 3:
        enough = len(falls) - _freedom(x) + 3
        told = f"{counted(len(falls), 'size')} with {LEAST} validations or more; {enough} are needed"
        return [], 0.0, told
    taken, off = list[int](), 0
    most = max(1, len(falls) // 4)
    while len(taken) < most and _freedom(x[kept]) >= 3:
        t = np.abs(_deleted(x[kept], falls[kept])[1]).max(axis=1)
        furthest = int(np.argmax(t))
        p = most * _chance(float(t[furthest]), _freedom(x[kept]) - 1, len(kept))
        taken.append(int(kept[furthest]))
        kept = np.delete(kept, furthest)
        off = len(taken) if p < CHANCE else off
    kept = np.setdiff1d(np.arange(len(falls)), taken[:off])
    named = [_against(x, falls, kept, k) for k in taken[:off]]
    return [(k, noise[k] * excess, p) for k, excess, p in named], _scatter(x[kept], falls[kept]), ""


def _freedom(x: Array) -> int:
    return len(x) - int(np.linalg.matrix_rank(x))


def _deleted(x: Array, falls: Array) -> tuple[Array, Array]:
    """Deviation of each size from the line through all others, and Student's t of this deviation, both [k, 2]."""
    hat = x @ np.linalg.pinv(x)
    residual = falls - hat @ falls
    spare = np.maximum(1 - np.diag(hat), 1e-9)[:, None]
    freedom = _freedom(x) - 1
    others = np.maximum((residual**2).sum(axis=0) - residual**2 / spare, 1e-300) / freedom
    return residual / spare, residual / np.sqrt(others * spare)


def _chance(t: float, freedom: int, n_sizes: int) -> float:
    return float(min(1.0, 2 * stats.t.sf(t, freedom) * n_sizes * len(HALVES)))


def _against(x: Array, falls: Array, kept: NDArray[np.int64], k: int) -> tuple[int, float, float]:
    """Compare size `k` with the line through the sizes `kept`, in the half of the run where it deviates more.

    Returns (k, deviation, p).
    """
    both = np.append(kept, k)
    deviation, t = (one[-1] for one in _deleted(x[both], falls[both]))
    half = int(np.argmax(np.abs(t)))
    return k, float(deviation[half]), _chance(abs(float(t[half])), _freedom(x[both]) - 1, len(falls))


def _scatter(x: Array, falls: Array) -> float:
    residual = falls - x @ np.linalg.pinv(x) @ falls
    return float(np.sqrt((residual**2).sum(axis=0).max() / _freedom(x)))
