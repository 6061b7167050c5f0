"""One law over all groups of a table: the distance of each group from it, and whether groups lie off together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from matscale.core.scaling.law import Array
from matscale.core.scaling.pooled.offsets import Offset, alike, cells, numbered, ordered
from matscale.core.scaling.result import Fit
from matscale.core.scaling.tables.table import GROUP, Words
from matscale.core.scaling.verdict import SIGNIFICANT, Reason, verdict

CARRIED = ("size means", "runs")
"""Kinds of points that stand for groups; a frontier has few groups, and the best size of a budget none."""


def with_groups(fit: Fit) -> Fit:
    """A law of a pooled table with the distance of each group; rejected if groups lie off it together."""
    if GROUP not in fit.table.words or fit.points not in CARRIED:
        return fit
    names, x, residuals = _residuals(fit)
    p, inflation = alike(names, residuals)
    offsets = ordered(_offsets(fit, names, x, residuals))
    if p >= SIGNIFICANT:
        return replace(fit, groups=offsets)
    text = f"points of a group lie off the law together (p = {p:.2g}) and are not independent: see --law mixed"
    reasons = (*fit.reasons, Reason("e", text, widening=float(np.sqrt(inflation))))
    return replace(fit, groups=offsets, reasons=reasons, verdict=verdict(fit.law, list(reasons), fit.intervals))


def _residuals(fit: Fit) -> tuple[Words, Array, Array]:
    """(group, ln of the variables [k, axes], ln(found / law)) of each mean per group and size, or of each run."""
    names, table = fit.table.words[GROUP], fit.table
    x = np.log(np.stack([table[axis] for axis in fit.axes], axis=-1))
    residuals = np.log(table["loss"]) - fit.law.value(fit.theta, x - fit.frame.x) - fit.frame.y
    if len(fit.axes) > 1:
        return names, x, residuals
    names, at, residuals = cells(names, x[:, 0], residuals)
    return names, at[:, None], residuals


def _offsets(fit: Fit, names: Words, x: Array, residuals: Array) -> list[Offset]:
    """Mean residual of each group; its interval takes all scatter for noise, and allows for that of the law."""
    (low, high), (low_new, high_new) = (fit.spread.band(x, fit.level, new) for new in (False, True))
    law, point = (high - low) / 2, (high_new - low_new) / 2
    found = []
    distinct, number = numbered(names)
    for g, name in enumerate(distinct):
        rows = number == g
        n, mean = int(rows.sum()), float(residuals[rows].mean())
        half = float(np.sqrt((law[rows] ** 2).mean() + (point[rows] ** 2 - law[rows] ** 2).mean() / n))
        with np.errstate(over="ignore"):
            found.append(Offset(name, n, *(float(np.exp(v)) for v in (mean, mean - half, mean + half))))
    return found
