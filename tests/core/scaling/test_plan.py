"""Plans: the optimum is one, the cost is measured, and what is not known is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from laws_data import TRUTH, grid, ladder

import matscale
from matscale.core.errors import ConfigError, DataError, MatscaleError
from matscale.core.scaling.allocation.cost_law import measured_cost
from matscale.core.scaling.allocation.plan import make_plan, needed, optimal_size, reached
from matscale.core.scaling.allocation.speed import Speed, speed_on
from matscale.core.scaling.result import Fit
from matscale.core.scaling.tables.table import Table
from synthetic_runs import make_study

LAW = np.array([list(TRUTH.values())])


@pytest.fixture(scope="module")
def joint() -> Fit:
    fit = matscale.fit(grid(np.random.default_rng(0), 8, 6, 2, 0.005), "nd", samples=150)
    assert fit.is_law
    return fit


def test_the_cost_is_that_of_the_runs(joint: Fit) -> None:
    cost = measured_cost(joint.table)
    assert (cost.p, cost.q) == pytest.approx((0.9, 1.0))
    assert np.exp(cost.log_k) == pytest.approx(50, rel=1e-6)
    assert cost.error < 1e-9


def test_no_other_allocation_of_the_budget_does_better(joint: Fit) -> None:
    cost, c = measured_cost(joint.table), np.array([1e12])
    n = optimal_size(LAW, c, cost)
    best = reached(LAW, c, cost)[0]
    for factor in (0.5, 0.9, 1.1, 2.0):
        other = n * factor
        loss = TRUTH["E"] + TRUTH["A"] * other ** -TRUTH["alpha"] + TRUTH["B"] * cost.data(c, other) ** -TRUTH["beta"]
        assert loss[0] > best
    assert cost.flops(n, cost.data(c, n))[0] == pytest.approx(1e12)


def test_the_budget_for_a_loss_is_the_inverse_of_the_loss_for_a_budget(joint: Fit) -> None:
    cost = measured_cost(joint.table)
    loss = float(reached(LAW, np.array([3e12]), cost)[0])
    assert needed(loss, LAW, cost)[0] == pytest.approx(3e12, rel=1e-6)
    assert np.isinf(needed(0.4, LAW, cost)[0])


def test_a_plan_holds_the_true_optimum_in_its_intervals(joint: Fit) -> None:
    plan = make_plan(joint, flops=5e12)
    cost = measured_cost(joint.table)
    n = float(optimal_size(LAW, np.array([5e12]), cost)[0])
    assert plan.n.low < n < plan.n.high
    loss = float(reached(LAW, np.array([5e12]), cost)[0])
    assert plan.loss.low < loss < plan.loss.high
    assert plan.unreachable == 0
    json.dumps(plan.plain(), allow_nan=False)


def test_a_target_near_the_floor_is_unreachable_in_some_samples(joint: Fit) -> None:
    near = joint.parameters["E"] + 0.25
    budget = needed(near, LAW, measured_cost(joint.table))[0]
    assert np.isfinite(budget)
    easy = make_plan(joint, loss=2.0)
    assert easy.unreachable == 0
    assert easy.flops.low < needed(2.0, LAW, measured_cost(joint.table))[0] < easy.flops.high


def test_a_target_below_the_floor_is_refused(joint: Fit) -> None:
    with pytest.raises(ConfigError, match="the floor of the law is"):
        make_plan(joint, loss=0.1)


def test_a_budget_beyond_thirty_times_the_largest_is_refused(joint: Fit) -> None:
    largest = measured_cost(joint.table).largest
    assert make_plan(joint, flops=29 * largest).beyond == pytest.approx(29)
    with pytest.raises(ConfigError, match="31 times the largest compute seen"):
        make_plan(joint, flops=31 * largest)


def test_device_hours_are_flops_over_speed(joint: Fit) -> None:
    plan = make_plan(joint, flops=3.6e12, speed=lambda n: Speed("X", 1e11 if n < 1e9 else 1e12, "given", ""))
    assert plan.device_hours == pytest.approx(0.01)


def runs_on(*devices: str) -> Table:
    """Runs of two sizes on each device; the larger model reaches ten times the FLOP/s."""
    rows, speeds = [], []
    for k, device in enumerate(devices):
        for n in (1e4, 1e5):
            run = f"{k} {n:g}"
            rows.append({"arch": "m", "n": n, "loss": 1.0 + len(rows), "run": run})
            speeds.append({"run": run, "n": n, "device": device, "precision": "fp32", "flops_per_s": n * 1e7 * (k + 1)})
    return Table.of(rows, facts={"speeds": speeds})


def test_the_speed_is_that_of_runs_of_the_nearest_size_on_that_device() -> None:
    table = runs_on("cuda:0 (NVIDIA H100 80GB HBM3)", "cuda:0 (NVIDIA H100 PCIe)", "cpu (2 threads)")
    for device, wanted in (("H100", 1e12), ("NVIDIA H100 PCIe", 2e12), ("cpu", 3e12)):
        found = speed_on(device, table, 3e6)
        assert (found.by, found.flops_per_s) == ("recorded", pytest.approx(wanted))
        assert "as 1 run of n = 100,000 reached on" in found.text
    assert speed_on("H100", table, 2e4).flops_per_s == pytest.approx(1e11)


def test_without_runs_on_a_device_its_peak_and_an_assumed_share_count_and_that_is_said() -> None:
    table = runs_on("cpu (2 threads)")
    assumed = speed_on("H100", table, 1e5)
    assert (assumed.by, assumed.flops_per_s) == ("assumed", pytest.approx(0.05 * 67e12))
    assert "0.05 of its peak in fp32" in assumed.text
    assert "assumed; none of the runs was made on this device" in assumed.text
    given = speed_on("H100", table, 1e5, precision="bf16", mfu=0.3)
    assert (given.by, given.flops_per_s) == ("given", pytest.approx(0.3 * 989e12))
    other = speed_on("H100", runs_on("cuda:0 (NVIDIA H100)"), 1e5, precision="bf16")  # the runs were made in fp32
    assert other.by == "assumed"
    with pytest.raises(ConfigError, match="no known peak of a device 'abacus'"):
        speed_on("abacus", table, 1e5)


def test_a_plan_of_run_folders_rests_on_their_counted_flops_and_their_speed(tmp_path: Path) -> None:
    study = make_study(
        tmp_path,
        architectures=("schnet",),
        sizes=(3000, 10_000, 30_000, 100_000, 300_000),
        data=(300, 1000, 3000, 9000),
    )
    fit = matscale.fit(study, "nd", samples=60)
    cost = measured_cost(fit.table)
    assert (cost.p, cost.q) == pytest.approx((1, 1), abs=1e-3)
    assert np.exp(cost.log_k) == pytest.approx(6 * 12 * 16 * 2000 / 1000, rel=0.01)  # per structure, not 6
    found = speed_on("cpu", fit.table, 3e5)
    largest = fit.table["c"][fit.table["n"] == 300_000]
    assert (found.by, found.flops_per_s) == ("recorded", pytest.approx(float(np.median(largest)) / 20))  # 20 s each


def test_without_a_law_there_is_no_plan_but_the_runs_that_would_tell() -> None:
    fit = matscale.fit(grid(np.random.default_rng(0), 3, 4, 2, 0.02), "nd", samples=60)
    with pytest.raises(
        MatscaleError, match=r"No plan: the joint law is incomplete design \(b: .*most informative next runs"
    ):
        make_plan(fit, flops=1e12)


def test_the_next_runs_are_affordable_and_each_tells_something(joint: Fit) -> None:
    plan = make_plan(joint, flops=1e13)
    assert len(plan.proposals) == 3
    for proposal in plan.proposals:
        assert proposal.flops <= 2 * plan.cost.largest
        assert 0 < proposal.gain <= 1
    assert len({(p.n, p.d) for p in plan.proposals}) == 3


def test_compute_that_is_no_function_of_size_and_data_is_refused() -> None:
    rng = np.random.default_rng(0)
    table = grid(rng)
    messy = Table({**table.numbers, "c": table["c"] * np.exp(rng.standard_normal(len(table)))}, table.words)
    with pytest.raises(DataError, match="do not follow from n and d alone"):
        measured_cost(messy)


def test_a_budget_that_buys_any_amount_of_data_is_refused(joint: Fit) -> None:
    table = joint.table
    same_steps = Table({**table.numbers, "c": 50 * table["n"] ** 0.9 * table["d"] ** 0.03}, table.words)
    with pytest.raises(DataError, match=r"do not grow with d .* number of steps is the same for any amount of data"):
        make_plan(replace(joint, table=same_steps), flops=1e6)


def test_a_cost_needs_a_grid(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match="rather than taken as 6 N D"):
        measured_cost(Table.of(ladder(rng)))
    line = [{**row, "d": 2.0 * float(row["n"]), "c": float(row["n"])} for row in ladder(rng)]  # type: ignore[arg-type]
    with pytest.raises(DataError, match="vary independently"):
        measured_cost(Table.of(line))


def test_a_plan_needs_one_aim(joint: Fit) -> None:
    for aims in ({}, {"flops": 1e12, "loss": 2.0}):
        with pytest.raises(ConfigError, match="--flops BUDGET or --loss TARGET"):
            make_plan(joint, **aims)  # type: ignore[arg-type]


def test_no_run_is_proposed_on_more_data_than_there_are(joint: Fit) -> None:
    most = joint.range["d"][1]
    table = replace(joint.table, names={**joint.table.names, "d": "unique"}, facts={"training structures": most})
    limited = replace(joint, table=table)
    budget = 20 * measured_cost(joint.table).largest
    free, held = make_plan(joint, flops=budget), make_plan(limited, flops=budget)
    assert max(run.d for run in free.proposals) > most
    assert held.proposals
    assert all(run.d <= most * (1 + 1e-9) for run in held.proposals)
    assert held.d == free.d
    assert held.d.value > most
    assert any(f"is more than the dataset has: {most:,.0f} training structures" in note for note in held.notes)
    assert not any("more than the dataset has" in note for note in free.notes)
