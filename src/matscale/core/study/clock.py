"""Remaining time of a study, estimated from the device time of its completed runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from matscale.core.errors import MatscaleError
from matscale.core.runs.status import read_info
from matscale.core.study.estimates import EstimatedRun, Estimator
from matscale.core.study.identity import PlannedRun
from matscale.core.study.plan import StudyPlan
from matscale.core.train.compute import device_of
from matscale.core.train.processes.world import World

if TYPE_CHECKING:
    from matscale.core.study.sweep import Sweep


def steps_of(run: PlannedRun) -> int | None:
    """Number of optimizer steps that the configuration sets; None if it depends on FLOPs, atoms or edges."""
    budget, batch = run.config.budget, run.config.batch
    limits = [budget.steps] if budget.steps else []
    if budget.epochs and batch.structures and batch.atoms is batch.edges is None:
        batches = -(-run.n_train // batch.structures)
        limits.append(budget.epochs * -(-batches // batch.accumulate))
    return min(limits) if limits else None


def work(run: PlannedRun) -> float:
    """Work of a run in arbitrary units: its FLOPs, or parameters × structures seen.

    Only ratios within one architecture are meaningful.
    """
    budget, batch = run.config.budget, run.config.batch
    if budget.max_flops:
        return budget.max_flops
    steps = steps_of(run)
    per_step = (batch.structures or 16) * batch.accumulate
    seen = (budget.epochs or 1) * run.n_train if steps is None else steps * per_step
    leaves = run.need.step * per_step if run.need else 0  # steps that the trunk has already done
    return float((seen - leaves) * max(run.parameters["non_embedding"], 1))


Kind = tuple[str, str, str, bool]
"""Architecture, variant, precision, and whether work is counted in FLOPs; runs of one kind have comparable work."""


def kind_of(run: PlannedRun) -> Kind:
    config = run.config
    variant = str(run.labels.get("variant") or "")
    return (config.architecture.name, variant, config.compute.precision, bool(config.budget.max_flops))


def counted_flops(run: PlannedRun) -> float:
    """Count the FLOPs of a run's training, without those of its trunk, on a few structures; no step is timed.

    The count uses the CPU and fp32, since the device may be in use by other runs; FLOPs depend on neither.
    """
    return _estimated(run, {"device": "cpu", "precision": "fp32", "compile": False}, mfu=1.0, time_steps=0)[0]


def timed_seconds(run: PlannedRun) -> float | None:
    """Seconds of a run's training, from a few steps timed on this machine; None for a run that uses an accelerator."""
    if device_of(run.config.compute, World()).type != "cpu":
        return None  # it is in use by the runs, so timing would be wrong
    return _estimated(run, {"compile": False})[1]


def _estimated(run: PlannedRun, compute: Mapping[str, Any], **options: Any) -> tuple[float, float]:
    """(FLOPs, seconds) of a run's training, without those of its trunk, with some keys of `compute` replaced."""
    config = run.config.model_copy(update={"compute": run.config.compute.model_copy(update=compute)})
    alike = replace(run, config=config)
    row = EstimatedRun(alike, Estimator(**options).of(alike), "planned")
    return row.estimate.flops * (1 - row.shared), row.estimate.seconds * (1 - row.shared)


@dataclass(frozen=True)
class Spent:
    """Work, seconds and FLOPs of completed runs of one kind."""

    work: float = 0.0
    seconds: float = 0.0
    flops: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.work + other.work, self.seconds + other.seconds, self.flops + other.flops)


@dataclass
class Clock:
    """Estimator of the remaining device time of a study.

    Runs of equal architecture, variant and precision are of one kind. For model sizes between completed sizes of the
    same kind, the time is interpolated. For other sizes on the CPU, a few steps of the smallest and the largest run of
    the kind are timed once. The result is multiplied by the ratio of the time that completed runs took to the time that
    such timings predict for them. On an accelerator, steps cannot be timed while runs use it. There the time follows
    from completed runs of the same kind, or else of another precision or variant. For a new architecture, the time is
    its FLOPs divided by the FLOP/s that all completed runs reached.
    """

    plan: StudyPlan
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time [s] of each completed run, by the name of the run, without the time of its trunk."""
    flops: dict[str, float] = field(default_factory=dict)
    """FLOPs of each completed run, by the name of the run, without the FLOPs of its trunk."""
    count: Callable[[PlannedRun], float] = counted_flops
    time: Callable[[PlannedRun], float | None] = timed_seconds
    _counted: dict[Kind, float | None] = field(default_factory=dict)
    """FLOPs per unit of work of each kind; None if they could not be counted."""
    _timed: dict[Kind, tuple[list[float], list[float]] | None] = field(default_factory=dict)
    """(1 / parameters, seconds per unit of work) of each kind's largest and smallest run; None if not timed."""

    def left(self, sweep: Sweep) -> float | None:
        """Estimate the remaining device time in seconds; None until a run has completed."""
        done: dict[Kind, list[PlannedRun]] = {}
        left: dict[Kind, list[PlannedRun]] = {}
        for run in self.plan.runs:
            status = sweep.states[run.path].status
            if status == "completed" and self._read(run):
                done.setdefault(kind_of(run), []).append(run)
            elif status not in ("completed", "failed", "blocked"):
                left.setdefault(kind_of(run), []).append(run)
        if not done:
            return None
        return sum(self._seconds(kind, runs, done) for kind, runs in left.items())

    def _seconds(self, kind: Kind, runs: Sequence[PlannedRun], done: Mapping[Kind, Sequence[PlannedRun]]) -> float:
        """Estimate the seconds of `runs`, all of one kind."""
        if own := self._between(runs, done.get(kind, ())):
            return own
        foreseen = self._foreseen(kind, runs)
        if foreseen is not None:
            judges = {kind: done[kind]} if kind in done else done
            known = [(self._foreseen(other, those), those) for other, those in judges.items()]
            expected = sum(seconds for seconds, _ in known if seconds is not None)
            taken = sum(self.seconds[run.name] for seconds, those in known if seconds is not None for run in those)
            return foreseen * (taken / expected if expected and taken else 1.0)
        spent = {other: sum(map(self._spent, those), Spent()) for other, those in done.items()}
        return self._rate(kind, runs, spent) * sum(map(work, runs))

    def _between(self, runs: Sequence[PlannedRun], done: Sequence[PlannedRun]) -> float | None:
        """Interpolate the seconds of `runs` between completed runs, `done`; None if a size lies outside them."""
        sizes = sorted({_parameters(run) for run in done})
        if not sizes or not all(sizes[0] <= _parameters(run) <= sizes[-1] for run in runs):
            return None
        alike = [sum((self._spent(run) for run in done if _parameters(run) == size), Spent()) for size in sizes]
        ends = [1 / size for size in reversed(sizes)], [one.seconds / max(one.work, 1e-9) for one in reversed(alike)]
        return _at(ends, runs)

    def _foreseen(self, kind: Kind, runs: Sequence[PlannedRun]) -> float | None:
        """Estimate the seconds of `runs` from timed steps.

        Per unit of work they are a + b / N for N parameters, since a step takes a' + b' N.
        """
        if kind not in self._timed:
            alike = sorted((run for run in self.plan.runs if kind_of(run) == kind), key=_parameters)
            self._timed[kind] = self._ends(alike[-1], alike[0])
        ends = self._timed[kind]
        return None if ends is None else _at(ends, runs)

    def _ends(self, *runs: PlannedRun) -> tuple[list[float], list[float]] | None:
        try:
            taken = [self.time(run) for run in runs]
        except MatscaleError:  # the run will report the error itself
            return None
        rates = [seconds / max(work(run), 1e-9) for seconds, run in zip(taken, runs) if seconds is not None]
        return ([1 / _parameters(run) for run in runs], rates) if len(rates) == len(runs) else None

    def _spent(self, run: PlannedRun) -> Spent:
        return Spent(work(run), self.seconds[run.name], self.flops.get(run.name, 0.0))

    def _read(self, run: PlannedRun) -> bool:
        """Read the time and FLOPs of a completed run; return whether they are known."""
        if run.name not in self.seconds:
            info = read_info(run.path) or {}
            if info.get("wall_s") is None:
                return False
            self.seconds[run.name] = info["wall_s"] - info.get("wall_s_shared", 0.0)
            self.flops[run.name] = info.get("flops", 0.0) - info.get("flops_shared", 0.0)
        return True

    def _rate(self, kind: Kind, runs: Sequence[PlannedRun], spent: Mapping[Kind, Spent]) -> float:
        """Seconds per unit of work of a kind, from the completed runs that are most similar."""
        for alike in (kind[:3], kind[:2], kind[:1]):
            found = [one for other, one in spent.items() if (other[: len(alike)], other[3]) == (alike, kind[3])]
            if found:
                total = sum(found, Spent())
                return total.seconds / max(total.work, 1e-9)
        total = sum((one for one in spent.values() if one.flops > 0), Spent())
        per_work = self._flops_per_work(kind, runs) if total.flops else None
        if per_work is None:
            total = sum(spent.values(), Spent())
            return total.seconds / max(total.work, 1e-9)
        return per_work * total.seconds / total.flops

    def _flops_per_work(self, kind: Kind, runs: Sequence[PlannedRun]) -> float | None:
        """FLOPs per unit of work, counted once on the run of median size, since they change little with size."""
        if kind[3]:
            return 1.0
        if kind not in self._counted:
            run = sorted(runs, key=work)[len(runs) // 2]
            try:
                self._counted[kind] = self.count(run) / max(work(run), 1e-9)
            except MatscaleError:  # the run will report the error itself
                self._counted[kind] = None
        return self._counted[kind]


def _at(rates: tuple[list[float], list[float]], runs: Sequence[PlannedRun]) -> float:
    """Seconds of `runs`, interpolated in `rates`: (1 / parameters in ascending order, seconds per unit of work)."""
    return float(sum(np.interp(1 / _parameters(run), *rates) * work(run) for run in runs))


def _parameters(run: PlannedRun) -> int:
    return max(run.parameters["non_embedding"], 1)
