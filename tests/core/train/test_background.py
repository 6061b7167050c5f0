"""Checkpoints are written in the background: training goes on, errors and stops wait for what is under way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.testing import assert_close

import tiny
from matscale.core.errors import StoppedEarly
from matscale.core.files import DiskError
from matscale.core.progress import Reporter, StepStatus
from matscale.core.runs import checkpoint
from matscale.core.runs.record import Run
from matscale.core.train.background import BackgroundWriter
from matscale.core.train.session import train

FEW = ("budget.steps=8", "checkpoint.every=2", "checkpoint.keep=9", "evaluation.every=100", "log_every=4")


class Counts(Reporter):
    """Counts steps; `reached(n)` waits until `n` of them are done."""

    def __init__(self) -> None:
        self.step, self.changed = 0, threading.Condition()

    def stepped(self, status: StepStatus) -> None:
        with self.changed:
            self.step = status.step
            self.changed.notify_all()

    def reached(self, n: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.step >= n, 60)


Save = Callable[[Path, checkpoint.Checkpoint], Path]


def trained(data: Path, folder: Path, save: Save, monkeypatch: pytest.MonkeyPatch, progress: Reporter) -> Run:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save)
        config = tiny.configured(data, *FEW)
        return train(config, folder, architecture=tiny.architecture(), progress=progress)


def test_training_goes_on_while_a_checkpoint_is_written_which_is_of_its_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, save, threads = Counts(), checkpoint.save, set()

    def late(root: Path, made: checkpoint.Checkpoint) -> Path:
        counts.reached(min(made.step + 2, 8))  # the next save waits for this one, so that no more steps are possible
        threads.add(threading.current_thread())
        return save(root, made)

    slow = trained(data, tmp_path / "slow", late, monkeypatch, counts)
    plain = trained(data, tmp_path / "plain", save, monkeypatch, Reporter())
    assert threading.main_thread() not in threads
    assert slow.checkpoints() == plain.checkpoints() == [2, 4, 6, 8]
    for step in slow.checkpoints():
        ours, theirs = (checkpoint.load(checkpoint.folder_of(run.checkpoint_folder, step)) for run in (slow, plain))
        for group in ("model", "ema", "optimizer"):
            assert_close(getattr(ours, group), getattr(theirs, group), rtol=0, atol=0)
        assert ours.state["position"]["step"] == theirs.state["position"]["step"] == step


def test_an_error_of_the_disk_ends_training_at_the_next_boundary(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, save = Counts(), checkpoint.save

    def full(root: Path, made: checkpoint.Checkpoint) -> Path:
        if made.step == 4:
            raise DiskError("no room")
        return save(root, made)

    with pytest.raises(DiskError, match="no room"):
        trained(data, tmp_path / "run", full, monkeypatch, counts)
    assert counts.step in (4, 5, 6)
    run = Run.open(tmp_path / "run")
    assert (run.checkpoints(), run.info["status"]) == ([2], "failed")


def test_a_stop_waits_until_all_is_written(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, save = Counts(), checkpoint.save

    def slow(root: Path, made: checkpoint.Checkpoint) -> Path:
        threading.Event().wait(0.2)
        return save(root, made)

    monkeypatch.setattr("matscale.core.train.trainer.StopRequest.asked", lambda stop: counts.step >= 5)
    with pytest.raises(StoppedEarly, match="after step 5, and saved"):
        trained(data, tmp_path / "run", slow, monkeypatch, counts)
    run = Run.open(tmp_path / "run")
    assert (run.last, run.info["steps"], run.info["status"]) == (5, 5, "stopped")


def test_at_most_one_is_under_way_and_an_error_does_not_hide_the_one_before_it() -> None:
    done: list[str] = []

    def full() -> None:
        raise DiskError("no room")

    def work() -> None:
        with BackgroundWriter() as writer:
            writer.begin(lambda: threading.Event().wait(0.05) and None, lambda: done.append("one"))
            writer.begin(lambda: done.append("two"), lambda: done.append("told"))
            assert done[0] == "one"
            writer.begin(full, lambda: done.append("never"))
            raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        work()
    assert done == ["one", "two", "told"]
