"""The time that is left of a sweep, on sequences of runs whose true times are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from matscale.core.errors import DataError
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.status import State
from matscale.core.study.clock import Clock, counted_flops, kind_of, timed_seconds, work
from matscale.core.study.identity import PlannedRun
from studies import planned

FLOPS_PER_WORK = {"fcn": 6.0, "schnet": 300.0, "eqv2": 2000.0}
"""Architectures differ by hundreds in the FLOPs that a parameter and a structure take ..."""
FLOPS_PER_SECOND = {"fcn": 0.7e9, "schnet": 1e9, "eqv2": 1.4e9}
"""... and by two in the speed at which they are done."""


def run_of(name: str, arch: str, n: int, **sections: Any) -> PlannedRun:
    config = TrainConfig.parse({"architecture": {"name": arch}, "budget": {"steps": 100}, **sections})
    return PlannedRun(Path("/study/runs") / name, config, name, {}, {"non_embedding": n}, 1000)


def seconds_of(run: PlannedRun) -> float:
    arch = run.config.architecture.name
    return flops_of(run) / FLOPS_PER_SECOND[arch]


def flops_of(run: PlannedRun) -> float:
    return FLOPS_PER_WORK[run.config.architecture.name] * work(run)


@dataclass
class Simulated:
    """A sweep that does its runs one after the other."""

    runs: list[PlannedRun]
    states: dict[Path, State] = field(default_factory=dict)
    counted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.states = {run.path: State("planned") for run in self.runs}
        plan: Any = SimpleNamespace(runs=self.runs)
        self.clock = Clock(plan, count=self.count, time=lambda run: None)  # as where steps cannot be timed

    def count(self, run: PlannedRun) -> float:
        self.counted.append(run.name)
        return flops_of(run)

    def do(self, run: PlannedRun) -> float | None:
        self.states[run.path] = State("completed")
        self.clock.seconds[run.name], self.clock.flops[run.name] = seconds_of(run), flops_of(run)
        return self.clock.left(self)  # type: ignore[arg-type]


GRID = [run_of(f"{arch}-{n}", arch, n) for arch in FLOPS_PER_WORK for n in (1000, 10_000, 100_000)]


@pytest.mark.parametrize("order", [GRID, GRID[::-1], GRID[::3] + GRID[1::3] + GRID[2::3]])
def test_the_whole_time_is_foreseen_within_a_factor_of_two_from_the_first_run_on(order: list[PlannedRun]) -> None:
    sweep, truth, spent = Simulated(order), sum(map(seconds_of, order)), 0.0
    assert sweep.clock.left(sweep) is None  # type: ignore[arg-type]
    for run in order:
        left = sweep.do(run)
        spent += seconds_of(run)
        assert left is not None
        assert truth / 2.1 < spent + left < 2.1 * truth  # the speeds differ by 2
    assert left == 0
    assert len(sweep.counted) <= 2  # once per architecture of which nothing was done


def test_a_kind_that_is_done_is_judged_by_its_own_runs() -> None:
    slow = [run_of(f"bf16-{n}", "schnet", n, compute={"precision": "bf16"}) for n in (1000, 2000)]
    fast = [run_of(f"fp32-{n}", "schnet", n) for n in (1000, 2000)]
    assert kind_of(slow[0]) != kind_of(fast[0])
    sweep = Simulated([*slow, *fast])
    sweep.do(fast[0])
    one = sweep.clock.seconds[fast[0].name]
    assert sweep.clock.left(sweep) == pytest.approx(5 * one)  # type: ignore[arg-type]
    sweep.do(slow[0])
    sweep.clock.seconds[slow[0].name] = 3 * one
    assert sweep.clock.left(sweep) == pytest.approx(2 * one + 6 * one)  # type: ignore[arg-type]
    assert sweep.counted == []


def test_small_models_of_other_architectures_are_judged_by_timed_steps() -> None:
    """Steps of small models take as long as their overhead: FLOPs would foresee a hundred times what eqv2 takes."""

    def truth(run: PlannedRun) -> float:
        overhead = {"fcn": 0.4, "schnet": 2.0, "eqv2": 5.0}[run.config.architecture.name]
        return overhead + 0.1 * seconds_of(run)

    sweep, whole, spent, timed = Simulated(GRID), sum(map(truth, GRID)), 0.0, list[str]()
    sweep.clock.time = lambda run: timed.append(run.name) or 0.5 * truth(run)  # type: ignore[func-returns-value]
    for run in GRID:
        sweep.states[run.path] = State("completed")
        sweep.clock.seconds[run.name], sweep.clock.flops[run.name] = truth(run), flops_of(run)
        spent += truth(run)
        left = sweep.clock.left(sweep)  # type: ignore[arg-type]
        assert left is not None
        assert whole / 1.2 < spent + left < 1.2 * whole
    assert len(timed) == 6  # two a kind
    assert sweep.counted == []


def test_budgets_of_flops_are_judged_by_flops() -> None:
    done = run_of("a", "schnet", 1000)
    other = run_of("b", "eqv2", 1000, budget={"max_flops": 5e12})
    sweep = Simulated([done, other])
    assert sweep.do(done) == pytest.approx(5e12 / FLOPS_PER_SECOND["schnet"])
    assert sweep.counted == []


def test_a_run_that_cannot_be_counted_still_has_an_estimate() -> None:
    def fails(run: PlannedRun) -> float:
        raise DataError("no data")

    first, other = run_of("a", "schnet", 1000), run_of("b", "eqv2", 1000)
    sweep = Simulated([first, other])
    sweep.clock.count = fails
    assert sweep.do(first) == pytest.approx(seconds_of(first))


def test_the_plan_counts_the_flops_of_a_run(tmp_path: Path, data: Path) -> None:
    small, large = planned(tmp_path, data, seeds=[0]).runs
    assert 0 < counted_flops(small) < counted_flops(large)
    assert 0 < (timed_seconds(small) or 0) < 60
    assert counted_flops(large) / work(large) == pytest.approx(counted_flops(small) / work(small), rel=1.0)
