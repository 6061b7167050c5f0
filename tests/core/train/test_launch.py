"""`--devices N` starts its own processes: exit codes, error texts, signals and restarts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from matscale.core.errors import ConfigError, DataError, PeerLost, StoppedEarly
from matscale.core.runs.record import Run
from matscale.core.train.processes import launch
from matscale.core.train.stop import Interrupted, StopRequest, caught


def began(data: Path, folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "matscale", "train", "--arch", "fcn", "--params", "2k", "--data", str(data)]
    command += ["--batch", "4", "--devices", "2", "--device", "cpu", "--no-baselines", "-q", "-o", str(folder)]
    command += ["--set", "log_every=1", "--set", "compute.timeout=20", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def wait_for_rows(folder: Path, process: subprocess.Popen[str], n: int = 1) -> None:
    end = time.monotonic() + 240
    while not (folder / "metrics.jsonl").exists() or len((folder / "metrics.jsonl").read_text().splitlines()) < n:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def workers(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the processes that train, by rank."""
    found = {}
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found[next(int(v[5:]) for v in variables if v.startswith(b"RANK="))] = int(child)
    return [found[rank] for rank in sorted(found)]


def losses(folder: Path) -> list[tuple[int, str, float]]:
    return [(row["step"], row["split"], row["loss"]) for row in Run.open(folder).metrics()]


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
def test_a_killed_process_is_started_again_and_the_run_ends_as_if_nothing_had_been(data: Path, tmp_path: Path) -> None:
    steps = ["--steps", "40", "--set", "checkpoint.every=2", "--set", "evaluation.every=10"]
    steps += ["--set", "compute.timeout=120"]  # a restarted process must not wait for a dead one
    killed = began(data, tmp_path / "killed", *steps, "--restarts", "1")
    wait_for_rows(tmp_path / "killed", killed, 5)
    os.kill(workers(killed)[1], signal.SIGKILL)
    code, out, _ = ended(killed)
    assert (code, out) == (0, f"Run: {tmp_path / 'killed'}\n")
    assert ended(began(data, tmp_path / "left", *steps))[0] == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "left")
    assert len(losses(tmp_path / "left")) == 44


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_reaches_the_processes_which_save_and_stop(data: Path, tmp_path: Path, number: int) -> None:
    process = began(data, tmp_path / "run", "--steps", "100000", "--restarts", "2")
    wait_for_rows(tmp_path / "run", process)
    process.send_signal(number)
    code, _, err = ended(process)
    assert code == 5
    assert err.count("Error:") == err.count(f"Stopped by {signal.Signals(number).name}") == 1
    assert "Traceback" not in err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "stopped"
    assert Run.open(tmp_path / "run").last is not None


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGQUIT])
def test_processes_whose_agent_died_save_and_end(data: Path, tmp_path: Path, number: int) -> None:
    ignored = signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell lets what it starts in the background ignore it
    process = began(data, tmp_path / "run", "--steps", "100000")
    signal.signal(signal.SIGQUIT, ignored)
    wait_for_rows(tmp_path / "run", process)
    orphans = workers(process)
    process.send_signal(number)
    process.communicate(timeout=240)  # its pipes close when the last of its processes has ended
    end = time.monotonic() + 30
    while any(map(is_at_work, orphans)) and time.monotonic() < end:
        time.sleep(0.1)  # a process closes its pipes a little before it has ended
    assert not [pid for pid in orphans if is_at_work(pid)]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "stopped"
    assert Run.open(tmp_path / "run").last is not None


def is_at_work(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--steps", "3", "--lr", "1e30", "--precision", "fp64"], 4, "the loss is"),
        (["--data", "none-such"], 3, "none-such"),
        (["--set", "batch.structures=1"], 2, "too few for 2 processes"),
    ],
)
def test_the_exit_code_is_that_of_the_processes_and_their_error_is_told_once(
    data: Path, tmp_path: Path, options: list[str], code: int, told: str
) -> None:
    found, _, err = ended(began(data, tmp_path / "run", *options, "--restarts", "1"))
    assert found == code
    assert err.count("Error:") == err.count(told) == 1, err
    assert "Traceback" not in err


# The processes of one launch, one after the other in this process -----------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MATSCALE_LAUNCH", str(tmp_path))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setattr(launch, "_PATIENCE", 0.05)
    monkeypatch.setattr(launch, "_hold_signals", lambda: None)
    return tmp_path


def fail(error: Exception) -> None:
    with launch.reported():
        raise error


def test_only_the_first_of_several_processes_tells_its_error(shared: Path) -> None:
    def lose() -> None:
        with launch.reported():  # both are in training when the other one fails
            with pytest.raises(DataError, match="bad"):
                fail(DataError("bad"))
            raise PeerLost("lost")

    with pytest.raises(SystemExit) as silent:
        lose()
    assert silent.value.code == 6


def test_after_an_error_that_would_come_again_a_restart_ends_at_once(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError):
        fail(ConfigError("wrong"))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(SystemExit) as ended_at_once, launch.reported():
        pytest.fail("it was begun again")
    assert ended_at_once.value.code == 2


@pytest.mark.parametrize("error", [PeerLost("lost"), StoppedEarly("before the first step")])
def test_a_process_that_lost_another_may_be_started_again(
    shared: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    error.__cause__ = Interrupted("SIGTERM")  # the agent sends it to those that are left
    with pytest.raises(type(error)):
        fail(error)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert launch.is_restarted()
    with launch.reported():
        pass


def test_a_process_whose_agent_died_asks_itself_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    heard, parents = [], iter([17, 17, 1])
    monkeypatch.setattr("os.getppid", lambda: next(parents))
    monkeypatch.setattr("os.kill", lambda pid, number: heard.append((pid, number)))
    monkeypatch.setattr(launch, "_LOOK", 0.0)
    launch._end_with(17)
    assert heard == [(os.getpid(), signal.SIGTERM)]


def test_a_hangup_stops_a_run_except_under_nohup() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        for ignored in (False, True):
            signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
            assert (signal.SIGHUP in caught()) != ignored
            with StopRequest() as stop:
                os.kill(os.getpid(), signal.SIGHUP)
                assert stop.reason == (None if ignored else "SIGHUP")
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_error_tells_itself_where_the_folder_of_the_launch_is_gone(shared: Path) -> None:
    shared.rmdir()
    with pytest.raises(StoppedEarly):
        fail(StoppedEarly("saved"))


def test_without_a_launch_errors_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MATSCALE_LAUNCH", raising=False)
    for _ in range(2):
        with pytest.raises(ConfigError):
            fail(ConfigError("wrong"))
