"""Forecast of a run's final loss, from its first part and from finished runs with the same schedule.

Between a given share of a run and its end, ln loss falls by an amount that depends on the schedule and drifts with
size. This fall is predicted from the falls of finished runs at the same share, by a line in ln of the quantities that
vary among them (parameters, data, structures seen, learning rate, batch). The interval is Student's prediction interval
for a new run. Without finished runs of the same schedule there is no forecast, since the decay of the learning rate
causes a fall that cannot be seen before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from matscale.core.scaling.curves.normalised import BEGIN, Curve, groups_of, relative_noise
from matscale.core.scaling.intervals import LEVEL, quantile
from matscale.core.scaling.law import Array
from matscale.core.scaling.tables.table import SAME
from matscale.core.scaling.text import counted

FREEDOM = 2
"""Least number of degrees of freedom for an interval."""
DIALS = ("lr", "batch")
"""Columns in which a forecast does not extrapolate: with a learning rate above those tried, a run may diverge."""


@dataclass(frozen=True)
class Forecast:
    """Forecast of the final loss of a run, or the `reason` why there is none."""

    share: float
    """Share of the run that is done"""
    loss: float
    """Loss at the last validation"""
    predicted: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    n_finished: int = 0
    """Number of finished runs that the forecast is based on"""
    reason: str = ""

    def plain(self) -> dict[str, object]:
        found = None if self.reason else {"predicted": self.predicted, "interval": [self.low, self.high]}
        return {
            "share": self.share,
            "loss": self.loss,
            "end": found,
            "finished": self.n_finished,
            "reason": self.reason,
        }


def forecast(run: Curve, finished: Sequence[Curve], level: float = LEVEL) -> Forecast:
    """Predict the final loss of a run in progress from `finished` runs of the same architecture and schedule.

    The last element of `run.share` is the share of the run that is done so far; `run.size` has the values that are
    expected at its end. The curves of finished runs end at the share 1.
    """
    share, loss = float(run.share[-1]), float(np.exp(run.logs[-1]))
    if share < BEGIN:
        return Forecast(share, loss, reason=f"{share:.0%} is done: forecasts begin at {BEGIN:.0%}")
    known = [one for one in finished if one.share[0] <= share and _within(run.size, one.size)]
    if not known:
        return Forecast(share, loss, reason="no finished run of this schedule was validated so early")
    sizes = [one.size for one in known]
    if reason := _beyond(run.size, sizes):
        return Forecast(share, loss, n_finished=len(known), reason=reason)
    x, row = _columns(sizes, run.size)
    places = np.array(groups_of(sizes))
    cells = len(set(places.tolist()))
    # Runs of one size are not independent observations of size; only for a run of that size do they count as such.
    freedom = (cells if cells > 1 else len(known)) - x.shape[1]
    if freedom < FREEDOM:
        kinds = counted(cells, "size") if cells > 1 else counted(len(known), "run")
        told = f"{kinds} finished with this schedule; {x.shape[1] + FREEDOM} are needed"
        return Forecast(share, loss, n_finished=len(known), reason=told)
    fall = np.array([float(one.fall(np.array([share]))[0]) for one in known])
    noise = relative_noise(x, [[one] for one in known], np.vstack([x, row]))
    x, fall = x / noise[:-1, None], fall / noise[:-1]
    inverse = np.linalg.pinv(x.T @ x)
    theta = inverse @ x.T @ fall
    left = fall - x @ theta
    error = float(np.sqrt(left @ left / (len(known) - x.shape[1]) * (noise[-1] ** 2 + row @ inverse @ row)))
    half, centre = quantile(level, freedom) * error, float(run.logs[-1] - row @ theta)
    ends = (float(np.exp(centre + sign * half)) for sign in (0, -1, 1))
    predicted, low, high = ends
    return Forecast(share, loss, predicted, low, high, len(known))


def _within(size: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return all(axis in other for axis in size)


def _beyond(size: Mapping[str, float], others: Sequence[Mapping[str, float]]) -> str:
    """Reason why finished runs of the sizes `others` allow no forecast for a run of this size; empty if they do."""
    for axis, value in size.items():
        low, high = min(one[axis] for one in others), max(one[axis] for one in others)
        is_outside = not low / (1 + SAME) <= value <= high * (1 + SAME)
        if is_outside and (axis in DIALS or high <= low * (1 + SAME)):
            return f"{axis} = {value:.3g}, but finished runs have {low:.3g}" + (f" to {high:.3g}" if high > low else "")
    return ""


def _columns(sizes: Sequence[Mapping[str, float]], new: Mapping[str, float]) -> tuple[Array, Array]:
    """Design matrix [k, p] of a regression on the sizes of k runs, and the row [p] for a run of size `new`.

    The columns are 1 and the centred ln of each quantity that varies. A column that depends linearly on earlier columns
    is left out, such as the structures seen if all runs have the same number of epochs.
    """
    x, row = [np.ones(len(sizes))], [1.0]
    for axis in new:
        logs = np.log([size[axis] for size in sizes])
        column = logs - logs.mean()
        wider = np.column_stack([*x, column])
        if np.ptp(logs) > SAME and np.linalg.matrix_rank(wider, tol=SAME * np.sqrt(len(sizes))) == wider.shape[1]:
            x.append(column)
            row.append(float(np.log(new[axis]) - logs.mean()))
    return np.column_stack(x), np.array(row)
