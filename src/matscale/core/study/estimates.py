"""What every run of a plan would take, and the whole study."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from matscale.core.estimate import Estimate, estimate
from matscale.core.study.plan import Plan
from matscale.core.study.planned import PlannedRun
from matscale.core.train.progress import Progress

_SAME_COST = ("seed", "labels", "optimizer", "start", "schedule")
"""Sections of a configuration that change neither FLOPs nor memory nor, by peak × MFU, time."""


@dataclass(frozen=True)
class EstimatedRun:
    """A planned run with its estimate."""

    run: PlannedRun
    estimate: Estimate

    @property
    def shared(self) -> float:
        """The share of it that another run of the study, which it branches off, has spent already."""
        return self.run.need.step / self.estimate.steps if self.run.need else 0.0

    def plain(self) -> dict[str, Any]:
        """As JSON-ready values; `flops_shared` as in run.json."""
        spent = {"flops_shared": self.shared * self.estimate.flops}
        return {"run": self.run.name, **self.run.labels, **self.estimate.plain(), **spent}


def estimates(
    plan: Plan,
    device: str | None = None,
    mfu: float | None = None,
    progress: Progress | None = None,
    done: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[EstimatedRun]:
    """One by one, by peak × MFU; runs that differ in seed, learning rate or schedule alone are estimated once."""
    known: dict[str, Estimate] = {}
    for k, run in enumerate(plan.runs):
        done(k, len(plan.runs))
        plain = run.config.plain()
        key = json.dumps({name: value for name, value in plain.items() if name not in _SAME_COST}, sort_keys=True)
        if key not in known:
            known[key] = estimate(run.config, device=device, mfu=mfu, time_steps=0, progress=progress)
        yield EstimatedRun(run, known[key])


def totals(rows: list[EstimatedRun]) -> dict[str, float]:
    """Of the study: what runs share is spent once, disk is not shared."""
    spent = {
        key: sum(getattr(row.estimate, key) * (1 - row.shared) for row in rows)
        for key in ("flops", "validation_flops", "seconds", "device_hours")
    }
    return {**spent, "disk_bytes": float(sum(row.estimate.disk_bytes for row in rows))}
