"""Normalised training curves: ln(loss / loss at the end) against the share of the run that is done.

Runs under one schedule that is stretched to their length fall on one curve (Qiu et al., arXiv:2507.02119), but for a
drift with size, since a floor is another share of each loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from matscale.core.scaling.law import Array
from matscale.core.scaling.tables.table import SAME, Table, groups

SIZES = ("n", "d", "s")
"""Columns that make a size of a sweep: parameters, data, structures seen in all."""
LEAST = 4
"""Validations of a run, its last among them."""


@dataclass(frozen=True)
class Curve:
    """Validations of one run."""

    run: str
    size: Mapping[str, float]
    """Column of `SIZES` -> its value at the end of the run"""
    share: Array
    """Share of the run that was done at each validation [m], rising to 1 for a run that is over"""
    logs: Array
    """ln of the loss at each [m]"""

    def fall(self, share: Array) -> Array:
        """ln(loss / loss at the last validation) at shares of the run, straight between validations."""
        return np.asarray(np.interp(share, self.share, self.logs) - self.logs[-1])


def curves(table: Table) -> list[Curve]:
    """Curves of the runs in `table` that are over, those with `LEAST` validations or more."""
    names, found = table.runs, []
    for name in dict.fromkeys(names.tolist()):
        rows = np.flatnonzero(names == name)
        rows = rows[np.argsort(table["step"][rows], kind="stable")]
        if len(rows) < LEAST or not (table["step"][rows[-1]] > 0 and np.isfinite(table["loss"][rows]).all()):
            continue
        size = {axis: float(table[axis][rows[-1]]) for axis in SIZES if table.has(axis)}
        steps = table["step"][rows]
        found.append(Curve(name, size, steps / steps[-1], np.log(table["loss"][rows])))
    return found


def varying(sizes: Sequence[Mapping[str, float]]) -> list[str]:
    """Columns that differ between `sizes` by more than one size does in itself."""
    known = [axis for axis in SIZES if all(axis in size for size in sizes)]
    return [axis for axis in known if max(s[axis] for s in sizes) > (1 + SAME) * min(s[axis] for s in sizes)]


def cells(found: Sequence[Curve]) -> list[list[Curve]]:
    """Curves of one size each, in the order of the sizes."""
    axes = varying([curve.size for curve in found]) if found else []
    labels = [groups(np.array([curve.size[axis] for curve in found])).tolist() for axis in axes]
    places: dict[tuple[int, ...], list[Curve]] = {}
    for curve, *place in zip(found, *labels):
        places.setdefault(tuple(place), []).append(curve)
    return [places[place] for place in sorted(places)]
