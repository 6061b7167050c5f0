"""`sweep --stop-hopeless` on processes that train: the run saves and ends, the sweep goes on without it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from matscale.cli.progress import advice as module
from matscale.cli.progress.advice import Advice
from matscale.core.locks import is_claimed
from matscale.core.progress import Reporter
from matscale.core.scaling.curves.forecast import Forecast
from matscale.core.scaling.curves.running import Hopeless, Running
from matscale.core.study.config import Study
from matscale.core.study.plan import plan
from matscale.core.study.sweep import Sweep
from matscale.plugins.launchers.local import LocalOptions, LocalPool


@pytest.mark.parametrize("warm", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_training_that_is_given_up_saves_and_ends_and_the_sweep_is_done(
    study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, warm: bool
) -> None:
    """The run given up would take hours: the sweep ends only if it does."""
    often = {
        "batch": {"structures": 4},
        "compute": {"device": "cpu", "threads": 1},
        "evaluation": {"every": 10},
        "checkpoint": {"every": 10_000},
    }
    file = study(budget={"steps": 10_000_000}, seeds=[0], lr=[1e-3, 3e-3], retries=3, set=often)
    planned = plan(Study.read(file))
    seen = Forecast(0.5, 9.0, 8.0, 7.5, 8.5, n_finished=6)

    def hopeless(runs: Sequence[Running]) -> list[Hopeless]:
        return [Hopeless(one.path, seen, one.path, 5.0) for one in runs if not one.is_finished]

    monkeypatch.setattr(module, "hopeless", hopeless)
    monkeypatch.setattr(module, "EVERY", 0.0)
    pool = LocalPool(LocalOptions(workers=2, threads=1, warm=warm))
    sweep = Sweep(planned, pool, Advice(Reporter(), stops=True))
    try:
        sweep.run()
    finally:
        pool.close()
    sweep.conclude()  # what was given up is not missing
    runs = [run.path for run in planned.runs]
    assert set(sweep.given_up) == set(runs)
    assert not any(is_claimed(run) for run in runs)
    for run in runs:
        assert json.loads((run / "run.json").read_text())["status"] == "stopped"
        assert any((run / "checkpoints").iterdir())
