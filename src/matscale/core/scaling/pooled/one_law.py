"""One law for all groups of a table, with the offset of each group from the law."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from matscale.core.scaling.law import Array
from matscale.core.scaling.pooled.offsets import Offset, alike, cells, numbered, ordered
from matscale.core.scaling.result import Fit
from matscale.core.scaling.tables.table import GROUP, Words
from matscale.core.scaling.verdict import SIGNIFICANT, Reason, verdict

CARRIED = ("size means", "runs")
"""Kinds of points for which offsets of groups are computed. A frontier has too few groups, isoFLOP optima have none."""


def with_groups(fit: Fit) -> Fit:
    """Add the offset of each group to the fit of a pooled table.

    The law is rejected if residuals are correlated within groups.
    """
    if GROUP not in fit.table.words or fit.points not in CARRIED:
        return fit
    names, x, residuals = _residuals(fit)
    p, inflation = alike(names, residuals)
    offsets = ordered(_offsets(fit, names, x, residuals))
    if p >= SIGNIFICANT:
        return replace(fit, groups=offsets)
    text = f"residuals are correlated within groups (p = {p:.2g}), not independent: use --law mixed"
    reasons = (*fit.reasons, Reason("e", text, widening=float(np.sqrt(inflation))))
    return replace(fit, groups=offsets, reasons=reasons, verdict=verdict(fit.law, list(reasons), fit.intervals))


def _residuals(fit: Fit) -> tuple[Words, Array, Array]:
    """Residuals of a pooled law: arrays of the group [k], ln of the variables [k, axes] and ln(measured / law) [k].

    There is one residual per group and size for a law in one variable, and one per run for a law in several.
    """
    names, table = fit.table.words[GROUP], fit.table
    x = np.log(np.stack([table[axis] for axis in fit.axes], axis=-1))
    residuals = np.log(table["loss"]) - fit.law.value(fit.theta, x - fit.frame.x) - fit.frame.y
    if len(fit.axes) > 1:
        return names, x, residuals
    names, at, residuals = cells(names, x[:, 0], residuals)
    return names, at[:, None], residuals


def _offsets(fit: Fit, names: Words, x: Array, residuals: Array) -> list[Offset]:
    """Offset of each group: its mean residual, with an interval that includes all scatter and the error of the law."""
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
