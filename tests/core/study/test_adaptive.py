"""An adaptive sweep: what it proposes, trains, takes up again, and when it ends. Losses come from a known law."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from matscale.core.errors import ConfigError
from matscale.core.scaling.allocation import adaptive
from matscale.core.scaling.allocation.adaptive import PROPOSED, Adaptive, Offer, offers
from matscale.core.scaling.allocation.next_batch import Purpose
from matscale.core.scaling.tables.table import Table
from matscale.core.study.plan import StudyPlan
from matscale.core.study.sweep import Sweep
from studies import FakePool, planned


def study(folder: Path, data: Path) -> tuple[StudyPlan, list[Offer]]:
    """A grid of 30 runs, as if each rung were ten times as large as it is and had a thousand times the data."""
    plan = planned(
        folder, data, params=["1k", "2k", "4k", "8k", "16k"], data={"path": str(data), "fractions": FRACTIONS}
    )
    flops = {run.path: (6e4 * run.parameters["non_embedding"] * run.n_train, 1.0) for run in plan.runs}
    return plan, offers(plan, flops)


FRACTIONS = [0.1, 0.3, 1.0]


@pytest.fixture
def grid(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[StudyPlan, list[Offer]]:
    plan, found = study(tmp_path, data)
    by_path = {str(offer.run.path): offer for offer in found}

    def read(folders: list[str], columns: dict[str, str]) -> Table:
        rng = np.random.default_rng(0)
        noise = dict(zip(by_path, 0.01 * rng.standard_normal(len(by_path))))
        return Table.of(
            [
                {
                    "arch": "fcn",
                    "n": by_path[name].n,
                    "d": by_path[name].d,
                    "c": by_path[name].flops,
                    "loss": (0.5 + 5 * by_path[name].n ** -0.3 + 2 * by_path[name].d ** -0.35) * np.exp(noise[name]),
                }
                for name in folders
            ]
        )

    monkeypatch.setattr(adaptive, "read", read)
    monkeypatch.setattr("matscale.core.study.sweep.PAUSE", 0.0)
    return plan, found


def loop(grid: tuple[StudyPlan, list[Offer]], purpose: str, budget: float = 1e20) -> Adaptive:
    return Adaptive(grid[0], grid[1], Purpose.parse(purpose), 2, budget)


def test_a_purpose_that_is_met_leaves_the_rest_of_the_grid_untrained(grid: tuple[StudyPlan, list[Offer]]) -> None:
    pool, sweep = FakePool(), loop(grid, "loss=30%@n=8k,d=60")
    ended = sweep.run(lambda part: Sweep(part, pool).run())
    assert "The purpose is met" in ended
    assert sorted(path.name for path in pool.started) == sorted(sweep.proposed())
    assert len(pool.started) < len(grid[1]) / 2
    dearest = max(grid[1], key=lambda offer: offer.flops)
    assert dearest.run.name not in sweep.proposed()


def test_it_ends_with_its_budget(grid: tuple[StudyPlan, list[Offer]]) -> None:
    budget = 0.3 * sum(offer.flops for offer in grid[1])
    pool, sweep = FakePool(), loop(grid, "alpha=0.0001", budget)
    ended = sweep.run(lambda part: Sweep(part, pool).run())
    spent = sum(offer.flops for offer in grid[1] if offer.run.name in sweep.proposed())
    assert "The purpose is not met: the budget has" in ended
    assert spent <= budget
    with pytest.raises(ConfigError, match="the cheapest run of the grid costs"):
        loop(grid, "alpha=0.0001", 1.0).run(lambda part: None)


def test_what_was_proposed_is_trained_first_when_it_goes_on(grid: tuple[StudyPlan, list[Offer]]) -> None:
    class Stopped(Exception):
        pass

    def stops(part: StudyPlan) -> None:
        Sweep(StudyPlan(part.study, part.folder, part.dataset, part.runs[:3]), FakePool()).run()
        raise Stopped

    sweep = loop(grid, "alpha=0.0001")
    with pytest.raises(Stopped):
        sweep.run(stops)
    before, told = sweep.proposed(), list[str]()
    with pytest.raises(Stopped):
        loop(grid, "alpha=0.0001").run(stops, told.append)
    assert told == [f"{len(before) - 3} runs proposed before"]
    assert sweep.proposed() == before
    whole = loop(grid, "alpha=0.0001").run(lambda part: Sweep(part, FakePool()).run())
    assert "no run of the grid is left" in whole
    assert len((grid[0].folder / PROPOSED).read_text(encoding="utf-8").splitlines()) > 2


def test_runs_that_all_fail_end_it(grid: tuple[StudyPlan, list[Offer]], monkeypatch: pytest.MonkeyPatch) -> None:
    from matscale.core.runs.status import State

    sweep = loop(grid, "alpha=0.0001")

    def fails(part: StudyPlan) -> None:
        monkeypatch.setattr(
            "matscale.core.scaling.allocation.adaptive.state_of", lambda path: State("failed", "a fault")
        )

    with pytest.raises(ConfigError, match="proposed runs failed"):
        sweep.run(fails)


def test_a_grid_over_more_than_sizes_is_refused(tmp_path: Path, data: Path) -> None:
    plan = planned(tmp_path, data, lr=[1e-3, 3e-3])
    with pytest.raises(ConfigError, match="have the same architecture, size, data and seed"):
        offers(plan, {run.path: (1.0, 1.0) for run in plan.runs})
