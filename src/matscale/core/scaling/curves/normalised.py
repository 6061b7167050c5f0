"""Normalised training curves: ln(loss / final loss) as a function of the share of the run that is done.

Runs with one schedule, stretched to their length, have the same normalised curve (Qiu et al., arXiv:2507.02119), except
for a drift with size: the share of the floor in the loss changes with size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from matscale.core.scaling.law import Array
from matscale.core.scaling.tables.table import SAME, Table, groups

SIZES = ("n", "d", "s")
"""Columns that define the size of a run: parameters, data, structures seen in total."""
BEGIN = 0.1
"""Share of a run, at its beginning, that is left out of checks and forecasts: warm-up."""
TREND = 0.05
"""p-value below which the noise of curves is taken to change with size."""
ROUGH = 8
"""Number of points along a run from which its roughness is computed."""
LEAST = 4
"""Least number of validations of a run, the last included."""


@dataclass(frozen=True)
class Curve:
    """Training curve of one run: ln of the loss at each validation, against the share of the run that is done."""

    run: str
    size: Mapping[str, float]
    """Value at the end of the run of each column that defines its size, such as the columns in `SIZES`"""
    share: Array
    """Share of the run that was done at each validation [m], rising to 1 for a run that is over"""
    logs: Array
    """ln of the loss at each validation [m]"""

    def fall(self, share: Array) -> Array:
        """Fall of the loss from each `share` of the run to its end, ln(loss / final loss).

        The loss is interpolated linearly between validations.
        """
        return np.asarray(np.interp(share, self.share, self.logs) - self.logs[-1])


def curves(table: Table) -> list[Curve]:
    """Training curves of the finished runs in `table` that have `LEAST` or more validations."""
    found: list[Curve] = []
    if len(table) == 0:
        return found
    names, run = np.unique(table.runs, return_inverse=True)
    order = np.lexsort((table["step"], run))
    for rows in np.split(order, np.flatnonzero(np.diff(run[order])) + 1):
        steps, losses = table["step"][rows], table["loss"][rows]
        if len(rows) < LEAST or not steps[-1] > 0:
            continue
        size = {axis: float(table[axis][rows[-1]]) for axis in SIZES if table.has(axis)}
        found.append(Curve(str(names[run[rows[0]]]), size, steps / steps[-1], np.log(losses)))
    return found


def varying(sizes: Sequence[Mapping[str, float]]) -> list[str]:
    """Names of the quantities of `SIZES` that vary among `sizes`, by more than the tolerance `SAME` of one size."""
    known = [axis for axis in SIZES if all(axis in size for size in sizes)]
    return [axis for axis in known if max(s[axis] for s in sizes) > (1 + SAME) * min(s[axis] for s in sizes)]


def groups_of(sizes: Sequence[Mapping[str, float]]) -> list[int]:
    """Index of each run's size among the distinct sizes, in ascending order; all runs must have the same quantities."""
    places = list(zip(*(groups(np.array([size[axis] for size in sizes])).tolist() for axis in sizes[0])))
    order = {place: k for k, place in enumerate(sorted(set(places)))}
    return [order[place] for place in places] if places else [0] * len(sizes)


def cells(found: Sequence[Curve]) -> list[list[Curve]]:
    """Group curves by the size of their runs, smallest size first."""
    members: dict[int, list[Curve]] = {}
    for label, curve in zip(groups_of([curve.size for curve in found]), found):
        members.setdefault(label, []).append(curve)
    return [members[label] for label in sorted(members)]


def relative_noise(x: Array, sizes: Sequence[Sequence[Curve]], at: Array) -> Array:
    """Standard deviation of the noise of training curves at m sizes, relative to the geometric mean over k known sizes.

    `x` [k, p] is the design matrix of the k sizes, whose first column is 1; `at` [m, p] has the rows of the m sizes.
    The noise is proportional to the roughness of a curve: the second difference along the run of its deviation from the
    mean curve. ln of the roughness is fitted by a line in x; if it does not change significantly with x, the noise is 1
    everywhere.
    """
    share = np.linspace(BEGIN, 1.0, ROUGH)
    shapes = np.array([np.mean([curve.fall(share) for curve in members], axis=0) for members in sizes])
    rough = np.sqrt((np.diff(shapes - shapes.mean(axis=0), n=2, axis=1) ** 2).mean(axis=1))
    slopes = int(np.linalg.matrix_rank(x)) - 1
    freedom = len(x) - 1 - slopes
    if freedom < 3 or slopes < 1 or not rough.min() > 0:
        return np.ones(len(at))
    logs = np.log(rough)
    theta, flat = np.linalg.pinv(x) @ logs, logs - logs.mean()
    left = logs - x @ theta
    f = (flat @ flat - left @ left) / slopes / max(left @ left / freedom, 1e-300)
    return np.exp(at @ theta - logs.mean()) if stats.f.sf(f, slopes, freedom) < TREND else np.ones(len(at))
