"""Training speed of a device: measured on the runs if possible, else a share of its peak. `Speed.text` says which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from matscale.core.scaling.tables.table import Table
from matscale.core.scaling.text import counted, size


@dataclass(frozen=True)
class Speed:
    """Training speed of one device in FLOP/s, with its source."""

    device: str
    flops_per_s: float
    by: Literal["recorded", "given", "assumed"]
    """Source: `recorded` on runs on that device; `given` or `assumed` as a share of the peak"""
    text: str
    """Source of the speed, as a phrase"""

    def plain(self) -> dict[str, Any]:
        return dict(vars(self))


def speed_on(device: str, table: Table, n: float, precision: str | None = None, mfu: float | None = None) -> Speed:
    """Training speed of a model of `n` parameters on `device`; a small model reaches less of the peak than a large one.

    If `mfu` is given, the speed is this share of the peak. Otherwise, it is the speed of runs of the table on this
    device whose sizes are nearest to `n`: counted FLOPs over wall time and processes, validations included. If the
    table has no such runs, it is an assumed share of the peak. Raises ConfigError for a device with neither runs nor a
    known peak.
    """
    from matscale.core.estimate.estimate import ASSUMED_MFU  # start-up: torch
    from matscale.core.flops import named_peak  # start-up: torch

    known = [] if mfu else _runs_on(device, table, precision)
    if known:
        return _recorded(device, known, n)
    arithmetic = precision or "fp32"
    share, by = (mfu, "given") if mfu else (ASSUMED_MFU, "assumed")
    peak = named_peak(device, arithmetic)
    text = f"{share:.2g} of its peak in {arithmetic}, {peak:.3g} FLOP/s: a share that was {by}"
    text += "" if mfu else "; none of the runs was made on this device"
    return Speed(device, peak * share, "given" if mfu else "assumed", text)


def _recorded(device: str, known: Sequence[Mapping[str, Any]], n: float) -> Speed:
    far = np.abs(np.log([run["n"] / n for run in known]))
    nearest = [run for run, away in zip(known, far) if away <= far.min() + 0.01]
    reached = float(np.median([run["flops_per_s"] for run in nearest]))
    where = ", ".join(sorted({str(run["device"]) for run in nearest}))
    text = f"{reached:.3g} FLOP/s, as {counted(len(nearest), 'run')} of n = {size(nearest[0]['n'])} reached on {where}"
    return Speed(device, reached, "recorded", text)


def _runs_on(device: str, table: Table, precision: str | None) -> list[Mapping[str, Any]]:
    from matscale.core.flops import is_same_device  # start-up: torch

    mine = set(table.words["run"].tolist())
    return [
        run
        for run in table.facts.get("speeds", ())
        if run["run"] in mine and precision in (None, run["precision"]) and is_same_device(device, run["device"])
    ]
