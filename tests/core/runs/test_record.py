"""The run folder: nothing is overwritten, everything written is readable again, whatever happened in between."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from matscale.core.errors import ConfigError, MatscaleError
from matscale.core.locks import FolderLock, is_locked
from matscale.core.runs import checkpoint
from matscale.core.runs.config import TrainConfig, differences, merged
from matscale.core.runs.files import Rows
from matscale.core.runs.record import Run
from matscale.core.units import parse_count, parse_seconds

CONFIG = TrainConfig.parse({"architecture": {"name": "tiny", "config": {"width": 3}}, "budget": {"max_time": "30m"}})


def test_a_run_that_is_opened_has_the_configuration_it_was_created_with(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", CONFIG)
    run.update({"steps": 7, "energy": float("nan")})
    again = Run.open(run.path)
    assert again.config == CONFIG
    assert again.config.budget.max_time == 1800
    assert again.info["steps"] == 7
    assert again.info["energy"] is None  # JSON has no NaN
    assert again.checkpoints() == []
    assert (again.best, again.last) == (None, None)


def test_an_existing_run_is_never_overwritten(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", CONFIG)
    with pytest.raises(ConfigError, match="--resume"):
        Run.create(tmp_path / "run", CONFIG)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="is not an empty folder"):
        Run.create(tmp_path / "mine", CONFIG)


def test_a_folder_without_a_run_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        Run.open(tmp_path)


def test_a_run_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", CONFIG)
    run.update({"format_version": 99})
    with pytest.raises(MatscaleError, match="newer"):
        Run.open(run.path)


def test_a_half_written_last_row_is_passed_over_and_cut(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "metrics.jsonl")
    for step in (10, 20, 30):
        rows.append({"step": step, "loss": float("inf") if step == 20 else 0.1})
    with rows.path.open("a") as file:
        file.write('{"step": 40, "lo')
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert [row["loss"] for row in rows] == [0.1, None, 0.1]
    assert rows.count() == 3
    rows.cut(2)
    assert rows.path.read_text() == '{"step": 10, "loss": 0.1}\n{"step": 20, "loss": null}\n'


LOSSES = {1: 0.5, 2: 0.3, 3: 0.1, 4: float("nan")}


@pytest.fixture
def run_of_five(tmp_path: Path) -> Run:
    """Steps 1 to 4 were validated, 5 only saved; 3 is the best."""
    run = Run.create(tmp_path / "run", CONFIG)
    for step in range(1, 6):
        one = {"weight": torch.tensor(float(step))}
        checkpoint.save(run.checkpoint_folder, checkpoint.Checkpoint(step, one, None, one, {}))
        if step in LOSSES:
            run.rows.append({"step": step, "split": "validation", "loss": LOSSES[step], "objective": -step})
    (run.checkpoint_folder / "best").write_text("3\n")
    return run


@pytest.mark.parametrize(("damaged", "best"), [((3,), 2), ((2, 3), 1), ((1, 2, 3), 5), ((1, 2, 3, 5), 4)])
def test_a_damaged_best_checkpoint_gives_way_to_the_best_sound_one(
    run_of_five: Run, damaged: tuple[int, ...], best: int
) -> None:
    assert run_of_five.best == 3
    for step in damaged:
        (checkpoint.folder_of(run_of_five.checkpoint_folder, step) / "model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match=rf"step_3: the best checkpoint is damaged.* step {best} is used"):
        assert run_of_five.best == best


def test_a_best_checkpoint_that_is_gone_gives_way_too(run_of_five: Run) -> None:
    checkpoint.remove(checkpoint.folder_of(run_of_five.checkpoint_folder, 3))
    with pytest.warns(UserWarning, match="or missing"):
        assert run_of_five.best == 2


def test_a_best_checkpoint_newer_than_those_left_is_told_as_gone(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", CONFIG)
    for step in (1, 2):
        one = {"weight": torch.tensor(float(step))}
        state = {"position": {"best": {"step": step}}}
        checkpoint.save(run.checkpoint_folder, checkpoint.Checkpoint(step, one, None, one, state))
    (run.checkpoint_folder / "best").write_text("2\n")
    checkpoint.remove(checkpoint.folder_of(run.checkpoint_folder, 2))
    with pytest.warns(
        UserWarning,
        match=r"names step 2\. Its checkpoint is damaged or missing\. According to the newest checkpoint \(step 1\)",
    ):
        assert run.best == 1


def test_where_no_checkpoint_is_sound_the_best_is_the_one_to_hear_about(run_of_five: Run) -> None:
    for step in run_of_five.checkpoints():
        (checkpoint.folder_of(run_of_five.checkpoint_folder, step) / "manifest.json").unlink()
    assert run_of_five.best == 3


def test_two_processes_cannot_train_into_one_folder(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", CONFIG)
    with FolderLock(run.path), pytest.raises(ConfigError, match=f"process {os.getpid()}"), FolderLock(run.path):
        pass
    with FolderLock(run.path):  # free again
        pass


def test_a_look_at_a_run_does_not_keep_a_process_out(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", CONFIG)
    with FolderLock(run.path):
        assert is_locked(run.path)
    assert not is_locked(run.path)
    with (run.path / ".lock").open() as looked:
        fcntl.flock(looked, fcntl.LOCK_SH)
        threading.Timer(0.1, fcntl.flock, (looked, fcntl.LOCK_UN)).start()
        with FolderLock(run.path):
            pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", CONFIG)
    script = "import os,sys;from pathlib import Path;from matscale.core.locks import FolderLock as L\n"
    script += "l=L(Path(sys.argv[1]));l.__enter__();os.kill(os.getpid(),9)"
    assert subprocess.run([sys.executable, "-c", script, str(run.path)], check=False).returncode == -9
    assert "process" in (run.path / ".lock").read_text()
    with FolderLock(run.path):
        pass


def test_a_wrong_key_is_answered_with_the_nearest_right_one() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.lrr.*'lr'"):
        TrainConfig.parse({"architecture": {"name": "x"}, "optimizer": {"lrr": 1}})


def test_fraction_and_count_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        TrainConfig.parse({"architecture": {"name": "x"}, "data": {"fraction": 0.5, "count": 3}})


def test_sections_merge_key_by_key_and_differences_name_them() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": 3}
    over = merged(base, {"a": {"y": 5}, "c": 1})
    assert over == {"a": {"x": 1, "y": 5}, "b": 3, "c": 1}
    assert differences(base, over) == {"a.y": (2, 5), "c": (None, 1)}


@pytest.mark.parametrize(("text", "value"), [("1M", 1e6), ("30k", 3e4), ("2e15", 2e15), ("1.5B", 1.5e9), (7, 7)])
def test_counts_are_read_as_people_write_them(text: str, value: float) -> None:
    assert parse_count(text) == value


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1d", 86400)])
def test_times_are_read_as_people_write_them(text: str, value: float) -> None:
    assert parse_seconds(text) == value


def test_a_time_in_fortnights_is_refused() -> None:
    with pytest.raises(ValueError, match="30m"):
        parse_seconds("2 fortnights")
