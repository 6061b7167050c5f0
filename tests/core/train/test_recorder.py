"""Recorder: what is written of a run, and that only the main process of several writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matscale.core.data.references import References
from matscale.core.errors import StoppedEarly
from matscale.core.files import DiskError
from matscale.core.hosting.observers import Observers
from matscale.core.progress import Reporter
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import Run
from matscale.core.train.processes.world import World
from matscale.core.train.recorder import Recorder

NOTHING = References(np.zeros(119), (), 0, 0.0, 0)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", TrainConfig.parse({"architecture": {"name": "fcn"}, "data": {"path": "none"}}))


def recorder(run: Run, rank: int = 0) -> Recorder:
    return Recorder(run, World(rank, 2), Observers([]), Reporter())


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def record(to: Recorder) -> None:
    with to.session():
        to.begin(NOTHING, {"parameters": {"total": 1}}, {})
        with to.training(lambda: {"steps": 1}):
            to.logged({"step": 1, "split": "train", "time": 0.0})
            to.validated({"step": 1, "split": "validation", "time": 0.0}, True)


def test_a_process_that_is_not_the_main_one_writes_nothing(run: Run) -> None:
    before = written(run.path)
    record(recorder(run, rank=1))
    assert written(run.path) == before


def test_the_main_process_writes_rows_facts_and_how_it_ended(run: Run) -> None:
    record(recorder(run))
    found = Run.open(run.path)
    assert [row["split"] for row in found.metrics()] == ["train", "validation"]
    assert (found.info["status"], found.info["steps"], found.info["parameters"]) == ("completed", 1, {"total": 1})
    assert (run.path / "references.json").exists()


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [(ValueError("no"), "failed", "ValueError: no"), (StoppedEarly("asked"), "stopped", None)],
)
def test_a_session_that_is_broken_off_says_why(run: Run, error: Exception, status: str, told: str | None) -> None:
    with pytest.raises(type(error)), recorder(run).session():
        raise error
    assert (run.info["status"], run.info["error"]) == (status, told)


def test_a_full_disk_at_the_end_does_not_hide_the_error_that_ended_a_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(values: Mapping[str, Any]) -> None:
        raise DiskError("the disk is full")

    writer = recorder(run)
    monkeypatch.setattr(run, "update", full)
    with pytest.raises(ValueError, match="no"), writer.training(dict):
        raise ValueError("no")
    with pytest.raises(DiskError), writer.training(dict):
        pass
