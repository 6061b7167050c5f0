"""How long what is left of a study will take, judged by what is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from matscale.core.errors import MatscaleError
from matscale.core.runs.status import read_info
from matscale.core.study.identity import PlannedRun
from matscale.core.study.plan import Plan

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


Kind = tuple[str, str, str, bool]
"""Architecture, variant, precision, and whether work is FLOPs: runs of one kind take times in proportion to work."""


def kind_of(run: PlannedRun) -> Kind:
    config = run.config
    variant = str(run.labels.get("variant") or "")
    return (config.architecture.name, variant, config.compute.precision, bool(config.budget.max_flops))


def counted_flops(run: PlannedRun) -> float:
    """FLOPs of a run's own training, counted on a few structures as the plan's estimates do; no step is timed.

    It is counted on the CPU and in fp32, beside runs that are under way: FLOPs depend on neither.
    """
    from matscale.core.study.estimates import EstimatedRun, Estimator  # start-up: torch

    compute = run.config.compute.model_copy(update={"device": "cpu", "precision": "fp32", "compile": False})
    alike = replace(run, config=run.config.model_copy(update={"compute": compute}))
    row = EstimatedRun(alike, Estimator(mfu=1.0, time_steps=0).of(alike), "planned")
    return row.estimate.flops * (1 - row.shared)


@dataclass(frozen=True)
class Spent:
    """What completed runs of one kind took."""

    work: float = 0.0
    seconds: float = 0.0
    flops: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.work + other.work, self.seconds + other.seconds, self.flops + other.flops)


@dataclass
class Clock:
    """Device time that is left.

    A kind of which runs are complete is judged by those. Another is judged by one of another precision or variant, and
    a new architecture by its FLOPs, counted once, at the FLOP/s that all completed runs reached.
    """

    plan: Plan
    seconds: dict[str, float] = field(default_factory=dict)
    """Name of a completed run -> its own wall seconds."""
    flops: dict[str, float] = field(default_factory=dict)
    """Name of a completed run -> its own FLOPs."""
    count: Callable[[PlannedRun], float] = counted_flops
    _counted: dict[Kind, float | None] = field(default_factory=dict)
    """Kind -> FLOPs per work; None where they could not be counted."""

    def left(self, sweep: Sweep) -> float | None:
        """Seconds of device time; None as long as nothing is done to judge by."""
        spent: dict[Kind, Spent] = {}
        for run in self.plan.runs:
            if sweep.states[run.path].status == "completed" and self._read(run):
                one = Spent(work(run), self.seconds[run.name], self.flops.get(run.name, 0.0))
                spent[kind_of(run)] = spent.get(kind_of(run), Spent()) + one
        if not spent:
            return None
        left: dict[Kind, list[PlannedRun]] = {}
        for run in self.plan.runs:
            if sweep.states[run.path].status not in ("completed", "failed", "blocked"):
                left.setdefault(kind_of(run), []).append(run)
        return sum(self._rate(kind, runs, spent) * sum(map(work, runs)) for kind, runs in left.items())

    def _read(self, run: PlannedRun) -> bool:
        """Whether it is known what a completed run took."""
        if run.name not in self.seconds:
            info = read_info(run.path) or {}
            if info.get("wall_s") is None:
                return False
            self.seconds[run.name] = info["wall_s"] - info.get("wall_s_shared", 0.0)
            self.flops[run.name] = info.get("flops", 0.0) - info.get("flops_shared", 0.0)
        return True

    def _rate(self, kind: Kind, runs: Sequence[PlannedRun], spent: Mapping[Kind, Spent]) -> float:
        """Seconds per work of a kind."""
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
        """Counted on the run in the middle, once: within an architecture it changes little with size."""
        if kind[3]:
            return 1.0
        if kind not in self._counted:
            run = sorted(runs, key=work)[len(runs) // 2]
            try:
                self._counted[kind] = self.count(run) / max(work(run), 1e-9)
            except MatscaleError:  # the run itself will say what is wrong with it
                self._counted[kind] = None
        return self._counted[kind]
