"""A run that is stopped, killed or damaged and resumed computes what an unbroken one does, bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from matscale.core.config import read_toml
from matscale.core.errors import ConfigError, DataError, StoppedEarly
from matscale.core.progress import Reporter
from matscale.core.runs import checkpoint
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import TIMINGS, Run
from matscale.core.train.session import train
from matscale.core.train.stop import StopRequest


def numbers(run: Run) -> list[dict[str, Any]]:
    """Rows without what depends on the machine's mood."""
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in run.metrics()]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return checkpoint.load_weights(checkpoint.folder_of(run.checkpoint_folder, run.last))


def assert_same(run: Run, other: Run) -> None:
    ours, theirs = numbers(run), numbers(other)
    assert ours
    assert ours == theirs
    assert list(run.samples) == list(other.samples)
    mine, yours = weights(run), weights(other)
    assert all(torch.equal(mine[k], yours[k]) for k in mine)
    for key in ("steps", "structures", "atoms", "edges", "flops", "validation_flops"):
        assert run.info[key] == other.info[key]


@pytest.fixture(scope="module", params=["springs", "columns"])
def unbroken(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    name = request.param
    config = tiny.configured(data, name=name)
    return train(config, tmp_path_factory.mktemp(name) / "run", architecture=tiny.architecture(name))


@pytest.mark.parametrize("step", [1, 7, 8, 17])  # between rows, in mid-epoch, at an epoch's end
def test_a_stopped_run_resumes_bit_for_bit(unbroken: Run, data: Path, tmp_path: Path, step: int) -> None:
    architecture = tiny.architecture(unbroken.config.architecture.name)
    with pytest.raises(StoppedEarly, match=rf"SIGTERM after step {step}, and saved.*--resume -o"):
        train(unbroken.config, tmp_path / "run", architecture=architecture, progress=tiny.StopAt(step))
    stopped = Run.open(tmp_path / "run")
    assert stopped.info["status"] == "stopped"
    assert stopped.last == step
    resumed = train(unbroken.config, tmp_path / "run", resume=True, architecture=architecture)
    assert resumed.info["status"] == "completed"
    assert_same(Run.open(tmp_path / "run"), unbroken)


def test_a_run_killed_before_its_last_checkpoint_had_its_name_names_it_when_it_goes_on(
    unbroken: Run, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    shutil.copytree(unbroken.path, path)
    last, best = (checkpoint.pointer(path / "checkpoints", name) for name in ("last", "best"))
    (path / "checkpoints" / "last").write_text(f"{Run.open(path).checkpoints()[-2]}\n")
    (path / "checkpoints" / "best").unlink()
    Run.open(path).update({"status": "running"})
    train(unbroken.config, path, resume=True, architecture=tiny.architecture(unbroken.config.architecture.name))
    assert [checkpoint.pointer(path / "checkpoints", name) for name in ("last", "best")] == [last, best]


class FailAt(Reporter):
    """Breaks off at the end of a run, after a row was written and before the last checkpoint."""

    def __init__(self, moment: str, step: int) -> None:
        self.moment, self.step = moment, step

    def logged(self, row: dict[str, Any]) -> None:
        self._met("logged", row)

    def validated(self, row: dict[str, Any], is_best: bool) -> None:
        self._met("validated", row)

    def _met(self, moment: str, row: dict[str, Any]) -> None:
        if (moment, row["step"]) == (self.moment, self.step):
            raise ConnectionAbortedError(moment)


@pytest.mark.parametrize("moment", ["logged", "validated"])
def test_rows_that_came_after_the_last_checkpoint_are_not_written_twice(
    data: Path, tmp_path: Path, moment: str
) -> None:
    # The checkpoint of step 20 holds two steps that are in no row yet: the run's last rows are of step 20 too.
    config = tiny.configured(data, "log_every=6", "checkpoint.every=5")
    unbroken = train(config, tmp_path / "unbroken", architecture=tiny.architecture())
    with pytest.raises(ConnectionAbortedError):
        train(config, tmp_path / "run", architecture=tiny.architecture(), progress=FailAt(moment, 20))
    assert Run.open(tmp_path / "run").last == 20
    train(config, tmp_path / "run", resume=True, architecture=tiny.architecture())
    assert_same(Run.open(tmp_path / "run"), unbroken)


def test_a_run_repeats_from_its_own_config_toml(unbroken: Run, tmp_path: Path) -> None:
    config = TrainConfig.parse(read_toml(unbroken.path / "config.toml"))
    again = train(config, tmp_path / "run", architecture=tiny.architecture(config.architecture.name))
    assert_same(again, unbroken)
    assert (again.path / "config.toml").read_text() == (unbroken.path / "config.toml").read_text()


def test_another_seed_gives_another_run(unbroken: Run, data: Path, tmp_path: Path) -> None:
    name = unbroken.config.architecture.name
    other = train(tiny.configured(data, "seed=1", name=name), tmp_path / "run", architecture=tiny.architecture(name))
    assert numbers(other)[0]["loss"] != numbers(unbroken)[0]["loss"]


def test_a_damaged_last_checkpoint_costs_steps_but_no_bit(data: Path, tmp_path: Path, unbroken: Run) -> None:
    architecture = tiny.architecture(unbroken.config.architecture.name)
    with pytest.raises(StoppedEarly):
        train(unbroken.config, tmp_path / "run", architecture=architecture, progress=tiny.StopAt(14))
    weights_file = tmp_path / "run" / "checkpoints" / "step_14" / "model.safetensors"
    content = bytearray(weights_file.read_bytes())
    content[-3] ^= 8
    weights_file.write_bytes(content)
    with pytest.warns(UserWarning, match="step_14"):
        resumed = train(unbroken.config, tmp_path / "run", resume=True, architecture=architecture)
    assert_same(resumed, unbroken)


def test_a_completed_run_is_left_alone(unbroken: Run) -> None:
    before = (unbroken.path / "run.json").read_text(), (unbroken.path / "metrics.jsonl").read_text()
    architecture = tiny.architecture(unbroken.config.architecture.name)
    again = train(unbroken.config, unbroken.path, resume=True, architecture=architecture)
    assert again.info["status"] == "completed"
    assert ((unbroken.path / "run.json").read_text(), (unbroken.path / "metrics.jsonl").read_text()) == before
    with pytest.raises(ConfigError, match="--resume"):
        train(unbroken.config, unbroken.path, architecture=architecture)


def test_resuming_with_another_configuration_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedEarly):
        train(tiny.configured(data), tmp_path / "run", architecture=tiny.architecture(), progress=tiny.StopAt(3))
    for change in ("optimizer.lr=0.5", "architecture.config.width=9", "seed=3"):
        with pytest.raises(ConfigError, match=change.partition("=")[0].replace(".", r"\.")):
            train(tiny.configured(data, change), tmp_path / "run", resume=True, architecture=tiny.architecture())
    allowed = tiny.configured(data, "budget.max_time=600", "checkpoint.keep=1")
    assert train(allowed, tmp_path / "run", resume=True, architecture=tiny.architecture()).info["steps"] == 20
    assert Run.open(tmp_path / "run").config.checkpoint.keep == 1


def test_resuming_with_other_batches_than_those_of_several_processes_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedEarly):
        train(tiny.configured(data), tmp_path / "run", architecture=tiny.architecture(), progress=tiny.StopAt(3))
    Run.open(tmp_path / "run").update({"world_size": 2, "global_batch": {"structures": 8}})
    with pytest.raises(ConfigError, match=r"up to 8 structures, on 2 processes with an older.* up to 4 structures"):
        train(tiny.configured(data), tmp_path / "run", resume=True, architecture=tiny.architecture())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_other_signals_save_and_stop_too(data: Path, tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(StoppedEarly, match=signal.Signals(number).name):
        train(tiny.configured(data), tmp_path / "r", architecture=tiny.architecture(), progress=tiny.StopAt(2, number))
    assert signal.getsignal(number) is before
    assert Run.open(tmp_path / "r").last == 2


def test_the_end_of_a_slurm_job_saves_and_stops(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 60))
    with pytest.raises(StoppedEarly, match="Slurm"):
        train(tiny.configured(data), tmp_path / "run", architecture=tiny.architecture())


PATIENCE = 300.0
"""Seconds, far above what a loaded machine takes: only a fault uses them up."""


@contextmanager
def training(folder: Path, data: Path) -> Iterator[BaseProcess]:
    """A process in the midst of a long run."""
    process = tiny.begin(folder, data, "budget.steps=100000")
    try:
        end = time.monotonic() + PATIENCE
        while not (folder / "metrics.jsonl").exists():
            assert process.is_alive(), f"the run ended with {process.exitcode} before its first row"
            assert time.monotonic() < end, "the run did not come to its first row"
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.join()


def test_a_second_signal_leaves_at_once(data: Path, tmp_path: Path) -> None:
    with training(tmp_path / "run", data) as process:
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
            os.kill(process.pid or 0, number)  # stopped, so that both are pending before it can reach a boundary
        process.join(PATIENCE)
        assert process.exitcode in (-signal.SIGTERM, -signal.SIGINT)


def test_a_second_signal_under_an_agent_does_not_keep_a_run_from_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")  # which passes on what the batch system has sent to all processes
    with StopRequest() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked()


def test_the_first_signal_ends_the_process_with_exit_5(data: Path, tmp_path: Path) -> None:
    with training(tmp_path / "run", data) as process:
        process.terminate()
        process.join(PATIENCE)
        assert process.exitcode == 5


def test_resuming_on_other_data_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    config = tiny.configured(tiny.make_dataset(folder).path)
    with pytest.raises(StoppedEarly):
        train(config, tmp_path / "run", architecture=tiny.architecture(), progress=tiny.StopAt(3))
    shutil.rmtree(folder)
    tiny.make_dataset(folder, seed=1)
    with pytest.raises(DataError, match="has changed since"):
        train(config, tmp_path / "run", resume=True, architecture=tiny.architecture())


class StopBefore(Reporter):
    """Sends this process a signal before the first step."""

    def started(self, run: Run, facts: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)  # whatever comes next is not reached
        raise AssertionError("the signal did not end this")


def test_a_signal_before_the_first_step_leaves_a_stopped_run(unbroken: Run, data: Path, tmp_path: Path) -> None:
    architecture = tiny.architecture(unbroken.config.architecture.name)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedEarly, match=r"SIGTERM before the first step.*--resume -o"):
        train(unbroken.config, tmp_path / "run", architecture=architecture, progress=StopBefore())
    assert signal.getsignal(signal.SIGTERM) is handler
    assert Run.open(tmp_path / "run").info["status"] == "stopped"
    resumed = train(unbroken.config, tmp_path / "run", resume=True, architecture=architecture)
    assert_same(resumed, unbroken)
