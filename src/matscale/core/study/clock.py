"""How long what is left of a study will take, judged by what is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from matscale.core.study.outcome import read_info
from matscale.core.study.plan import Plan
from matscale.core.study.planned import PlannedRun

if TYPE_CHECKING:
    from matscale.core.study.sweep import Sweep


def steps_of(run: PlannedRun) -> int | None:
    """Optimizer steps, where they follow from the configuration alone: not of a limit in FLOPs, atoms or edges."""
    budget, batch = run.config.budget, run.config.batch
    limits = [budget.steps] if budget.steps else []
    if budget.epochs and batch.structures and batch.atoms is batch.edges is None:
        batches = -(-run.n_train // batch.structures)
        limits.append(budget.epochs * -(-batches // batch.accumulate))
    return min(limits) if limits else None


def work(run: PlannedRun) -> float:
    """How much a run is, in no unit: parameters × structures seen, or its FLOPs. Ratios within one architecture are
    what the time left is judged by."""
    budget, batch = run.config.budget, run.config.batch
    if budget.max_flops:
        return budget.max_flops
    steps = steps_of(run)
    per_step = (batch.structures or 16) * batch.accumulate
    seen = (budget.epochs or 1) * run.n_train if steps is None else steps * per_step
    leaves = run.need.step * per_step if run.need else 0  # the trunk has done that part
    return float((seen - leaves) * max(run.parameters["non_embedding"], 1))


@dataclass
class Clock:
    """Device time that is left."""

    plan: Plan
    seconds: dict[str, float] = field(default_factory=dict)
    """Name of a completed run -> its own wall seconds."""

    def left(self, sweep: Sweep) -> float | None:
        """Seconds of device time; None as long as nothing is done to judge by."""
        done = [run for run in self.plan.runs if sweep.states[run.path].status == "completed"]
        pairs = [(run, self._seconds(run)) for run in done]
        measured = [(run, seconds) for run, seconds in pairs if seconds is not None]
        if not measured:
            return None
        left = [
            run for run in self.plan.runs if sweep.states[run.path].status not in ("completed", "failed", "blocked")
        ]
        return sum(self._expected(run, measured) for run in left)

    def _seconds(self, run: PlannedRun) -> float | None:
        if run.name not in self.seconds:
            info = read_info(run.path) or {}
            if info.get("wall_s") is None:
                return None
            self.seconds[run.name] = info["wall_s"] - info.get("wall_s_shared", 0.0)
        return self.seconds[run.name]

    def _expected(self, run: PlannedRun, measured: list[tuple[PlannedRun, float]]) -> float:
        """By the runs that are likest: of the same architecture, if there is one."""
        name = run.config.architecture.name
        alike = [pair for pair in measured if pair[0].config.architecture.name == name] or measured
        rate = sum(seconds for _, seconds in alike) / max(sum(work(other) for other, _ in alike), 1e-9)
        return rate * work(run)
