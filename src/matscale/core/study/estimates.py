"""Estimate FLOPs, time and disk space of a study and of each run; a few steps per kind of run are timed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matscale.core.estimate.estimate import Estimate, Price, foresee, price
from matscale.core.hosting.host import host
from matscale.core.progress import SILENT, Reporter
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.status import state_of
from matscale.core.study.identity import PlannedRun

if TYPE_CHECKING:
    from matscale.core.study.plan import StudyPlan

TIME_STEPS = 3
"""Number of steps timed per kind of run; more if steps are short."""
_OF_A_KIND = ("architecture", "batch", "loss", "augmentation", "compute")
"""Sections of a configuration that determine the cost of a step."""
_SAME = ("seed", "labels", "optimizer", "start", "schedule")
"""Sections that do not affect the estimate of a run of a given kind."""


@dataclass(frozen=True)
class EstimatedRun:
    """Planned run with its estimate."""

    run: PlannedRun
    estimate: Estimate
    status: str
    """Status of the run; a completed one has no further cost."""

    @property
    def shared(self) -> float:
        """Share of the run's cost that its trunk has already spent."""
        return self.run.need.step / self.estimate.steps if self.run.need else 0.0

    def plain(self) -> dict[str, Any]:
        """JSON-ready values; `flops_shared` and `seconds_shared` are the part that the trunk has already spent."""
        shared = {f"{key}_shared": self.shared * getattr(self.estimate, key) for key in ("flops", "seconds")}
        facts = {"run": self.run.name, "role": "trunk" if self.run.is_trunk else "run", "status": self.status}
        return {**facts, **self.run.labels, "train": self.run.n_train, **self.estimate.plain(), **shared}


class Estimator:
    """Estimator of planned runs; similar runs share results. Its options are those of `estimate`."""

    def __init__(
        self,
        device: str | None = None,
        mfu: float | None = None,
        time_steps: int = TIME_STEPS,
        progress: Reporter = SILENT,
    ) -> None:
        self.device, self.mfu, self.time_steps, self.progress = device, mfu, time_steps, progress
        self.prices: dict[str, Price] = {}
        """Estimated cost of a step, by kind of run."""
        self._known: dict[str, Estimate] = {}

    def of(self, run: PlannedRun) -> Estimate:
        """Estimate one run, as `estimate` does.

        Runs that differ only in seed, learning rate or schedule share an estimate.
        """
        plain = run.config.plain()
        key = json.dumps([_kind(run.config), *(v for k, v in plain.items() if k not in _SAME)], sort_keys=True)
        if key not in self._known:
            self._known[key] = self._estimated(run.config)
        return self._known[key]

    def _estimated(self, config: TrainConfig) -> Estimate:
        setup, forecast = foresee(config, host().architecture(config.architecture.name), self.progress)
        kind = json.dumps(_kind(config), sort_keys=True)
        if kind not in self.prices:
            self.prices[kind] = price(
                setup, forecast, device=self.device, mfu=self.mfu, time_steps=self.time_steps, progress=self.progress
            )
        return self.prices[kind].of(setup, forecast)


def _kind(config: TrainConfig) -> list[Any]:
    plain = config.plain()
    return [
        *(plain[section] for section in _OF_A_KIND),
        plain.get("pretrain"),
        config.optimizer.ema > 0,
        config.evaluation.structures,
    ]


def estimates(plan: StudyPlan, estimator: Estimator) -> list[EstimatedRun]:
    """Estimate all runs of a plan, in the order of the plan.

    A step of each kind of run is timed on the run with the most data, where batches are largest.
    """
    found: dict[Any, Estimate] = {}
    for k, run in enumerate(sorted(plan.runs, key=lambda run: -run.n_train)):
        estimator.progress.stage("Estimates", k, len(plan.runs))
        found[run.path] = estimator.of(run)
    return [EstimatedRun(run, found[run.path], state_of(run.path).status) for run in plan.runs]


def totals(rows: Iterable[EstimatedRun]) -> dict[str, float]:
    """Totals of the study. FLOPs and time that runs share are counted once; disk space is not shared."""
    rows = list(rows)
    spent = {
        key: sum(getattr(row.estimate, key) * (1 - row.shared) for row in rows)
        for key in ("flops", "validation_flops", "seconds", "device_hours")
    }
    return {**spent, "disk_bytes": float(sum(row.estimate.disk_bytes for row in rows))}
