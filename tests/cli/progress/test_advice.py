"""Advice of a sweep: a run that is hopeless is named once, and ended only if that was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from matscale.cli.progress import advice as module
from matscale.cli.progress.advice import Advice
from matscale.core.data.store.packed import PackedDataset
from matscale.core.progress import Reporter
from matscale.core.runs.status import State
from matscale.core.scaling.curves.forecast import Forecast
from matscale.core.scaling.curves.running import Hopeless
from matscale.core.study.sweep import Sweep
from studies import FakePool, planned


class Heard(Reporter):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def said(self, message: str) -> None:
        self.messages.append(message)


class EndingPool(FakePool):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Path] = []

    def end(self, path: Path) -> None:
        self.asked.append(path)


@pytest.mark.parametrize("stops", [False, True])
def test_a_hopeless_run_is_named_once_and_stopped_only_if_asked_for(
    tmp_path: Path, alloys: PackedDataset, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    plan = planned(tmp_path, alloys.path, lr=[1e-3, 3e-3], seeds=[0], params=["2k"])
    better, run = (one.path for one in plan.runs)
    seen = Forecast(0.5, 9.0, 8.0, 7.5, 8.5, n_finished=6)
    monkeypatch.setattr(module, "hopeless", lambda runs: [Hopeless(run, seen, better, 5.0)])
    monkeypatch.setattr(module, "EVERY", 0.0)
    pool, heard = EndingPool(), Heard()
    sweep = Sweep(plan, pool, states={better: State("completed"), run: State("running")})
    advice = Advice(heard, stops)
    advice.looked(sweep)
    advice.looked(sweep)
    [message] = heard.messages
    assert (
        f"hopeless {run.name}: at 50% its final loss is predicted to be 8 (7.5 to 8.5, 99 %); {better.name}" in message
    )
    assert ("It is stopped." in message) == stops
    assert pool.asked == ([run] if stops else [])
    assert list(sweep.given_up) == pool.asked


def test_a_study_of_one_rate_for_each_size_is_not_looked_at(
    tmp_path: Path, alloys: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path, alloys.path)
    monkeypatch.setattr(module, "advice", lambda *_: pytest.fail("there is nothing to compare"))
    monkeypatch.setattr(module, "EVERY", 0.0)
    states = {run.path: State("running") for run in plan.runs}
    Advice(Heard(), stops=True).looked(Sweep(plan, EndingPool(), states=states))
