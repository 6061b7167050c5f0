"""TensorBoard reads what metrics.jsonl says."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tensorboard", reason="tensorboard is not installed (extra: trackers)")

from tensorboard.backend.event_processing.event_accumulator import STORE_EVERYTHING_SIZE_GUIDANCE, EventAccumulator
from tracked import points, train_tracked

from matscale.core.data.store.packed import PackedDataset


def test_all_sessions_of_a_run_are_one_curve_with_the_numbers_of_metrics_jsonl(
    alloys: PackedDataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train_tracked(alloys, tmp_path / "run", "tensorboard")
    assert capfd.readouterr().out == ""
    events = EventAccumulator(str(run.path / "tensorboard"), STORE_EVERYTHING_SIZE_GUIDANCE).Reload()
    told = [(name, e.step, e.value) for name in events.Tags()["scalars"] for e in events.Scalars(name)]
    expected = points(run)
    assert len(told) == len(expected) > 100
    assert {(name, step) for name, step, _ in told} == set(expected)
    assert all(value == pytest.approx(expected[name, step], rel=1e-6, nan_ok=True) for name, step, value in told)
    assert len(list((run.path / "tensorboard").iterdir())) == 2  # a file each session


def test_steps_after_the_checkpoint_of_a_killed_run_are_void(make_run, tmp_path: Path) -> None:
    from matscale.plugins.trackers.tensorboard import Events

    run = make_run()
    killed = Events(run, 0)
    for step in (2, 4, 6):
        killed.log(step, 0.0, {"train/loss": 1.0})
    killed.close("failed")
    resumed = Events(run, 4)
    resumed.log(6, 0.0, {"train/loss": 2.0})
    resumed.close("completed")
    events = EventAccumulator(str(run.path / "tensorboard"), STORE_EVERYTHING_SIZE_GUIDANCE).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(2, 1.0), (4, 1.0), (6, 2.0)]
