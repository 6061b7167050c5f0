"""What the runs of a plan will take, before any is started: an estimate for each, counted and timed once per kind."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from matscale.core.data.stages import Stages, silent
from matscale.core.errors import ConfigError
from matscale.core.estimate import Estimate, estimate
from matscale.core.study.outcome import state_of
from matscale.core.study.planned import PlannedRun

TIME_STEPS = 3
"""Timed per kind of run: a study has many kinds."""
OF_A_KIND = ("architecture", "batch", "loss", "augmentation", "compute")
"""Sections of the configuration that decide what a step costs."""


class Forecaster:
    """Estimates runs. Those whose steps cost the same are one kind, which is estimated once, by its first run."""

    def __init__(self, device: str | None = None, mfu: float | None = None, time_steps: int = TIME_STEPS) -> None:
        self.device, self.mfu, self.time_steps = device, mfu, time_steps
        self._known: dict[str, tuple[PlannedRun, Estimate]] = {}

    def of(self, run: PlannedRun) -> tuple[Estimate, int]:
        """The estimate of the run's kind, and the run's own steps.

        Raises what `estimate` raises, and ConfigError for a budget that does not pay for one step.
        """
        values = run.config.plain()
        kind = json.dumps([values[section] for section in OF_A_KIND], sort_keys=True)
        if kind not in self._known:
            plain = {"start": type(run.config.start)(), "budget": run.config.budget.model_copy(update=_SHORT)}
            config = run.config.model_copy(update=plain)
            found = estimate(config, device=self.device, mfu=self.mfu, time_steps=self.time_steps)
            self._known[kind] = (run, found)
        first, expected = self._known[kind]
        return expected, _steps(run, expected, expected.steps / expected.epochs * run.n_train / first.n_train)


_SHORT = {"epochs": 1, "steps": None, "max_flops": None, "max_time": None}


def _steps(run: PlannedRun, expected: Estimate, per_epoch: float) -> int:
    """Until the first of the run's budgets is used up."""
    budget = run.config.budget
    limits = [] if budget.steps is None else [budget.steps]
    if budget.epochs is not None:
        limits.append(max(1, round(budget.epochs * per_epoch)))
    if budget.max_flops is not None and expected.flops_per_step:
        limits.append(int(budget.max_flops // expected.flops_per_step))
    if budget.max_time is not None and expected.seconds:
        limits.append(max(1, int(budget.max_time / expected.seconds * expected.steps)))
    steps = min(limits)
    if steps < 1:
        raise ConfigError(
            f"{run.name}: budget.flops = {budget.max_flops:g} does not pay for one step, which takes "
            f"{expected.flops_per_step:.4g} FLOPs. Give more, take smaller batches or models, or say "
            "budget.least_steps = 2 or more to leave such runs out."
        )
    return steps


def forecast(runs: Iterable[PlannedRun], forecaster: Forecaster, stages: Stages = silent) -> list[dict[str, Any]]:
    """A row per run, for `matscale sweep --dry-run`. What a branch shares with its trunk is its part of the trunk's."""
    runs, rows = list(runs), []
    for done, run in enumerate(runs):
        stages("Estimates", done, len(runs))
        expected, steps = forecaster.of(run)
        shared = 0 if run.need is None else run.need.step
        seconds = expected.seconds / expected.steps
        rows.append(
            {
                "run": run.name,
                "role": "trunk" if run.is_trunk else "run",
                **run.labels,
                "parameters": expected.parameters["total"],
                "non_embedding": expected.parameters["non_embedding"],
                "train": run.n_train,
                "steps": steps,
                "flops": steps * expected.flops_per_step,
                "flops_shared": shared * expected.flops_per_step,
                "seconds": steps * seconds,
                "seconds_shared": shared * seconds,
                "memory_bytes": expected.memory_bytes,
                "disk_bytes": expected.disk_bytes,
                "device": expected.device,
                "status": state_of(run.path).status,
            }
        )
    return rows
