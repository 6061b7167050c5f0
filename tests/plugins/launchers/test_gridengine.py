"""The preset `sge` of the launcher `command` on a real Grid Engine of one node."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from studies import PATIENCE, in_the_midst, rows, said, sweeping, wait_for

pytestmark = pytest.mark.long

START = Path(__file__).resolve().parents[2] / "gridengine.sh"
SGE = {"preset": "sge", "poll": 0.5}


@pytest.fixture(scope="module")
def cell() -> Iterator[dict[str, str]]:
    """Variables under which the commands of Grid Engine talk to a node on this machine, up for these tests only."""
    folder = Path(tempfile.mkdtemp(prefix="matscale-gridengine-"))
    started = subprocess.run([START, "start", folder], capture_output=True, text=True, timeout=60, check=False)
    if started.returncode == 77:
        shutil.rmtree(folder)
        pytest.skip(f"no Grid Engine to test against: {started.stderr.strip()}")
    assert started.returncode == 0, started.stderr
    yield dict(line.split("=", 1) for line in (folder / "environment").read_text().splitlines())
    subprocess.run([START, "stop", folder], timeout=60, check=True)
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def environment(cell: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cell.items():
        monkeypatch.setenv(name, value)


def asked(*command: str) -> str:
    return subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout


def number_of(run: Path) -> str:
    return str(json.loads((run / ".job.json").read_text())["id"])


def next_number() -> int:
    """Number that Grid Engine gives to the next job; the job itself is withdrawn."""
    number = asked("qsub", "-terse", "-h", "-b", "y", "true").strip()
    asked("qdel", number)
    return int(number)


def test_a_sweep_that_is_killed_finds_its_jobs_in_the_queue_and_submits_none_twice(
    study: Callable[..., Path], tmp_path: Path
) -> None:
    before = next_number()
    file, folder = study(command=SGE, seeds=[0, 1, 2], budget={"steps": 150}), tmp_path / "study"
    with sweeping(file, "--launcher", "command") as process:
        wait_for(lambda: len(in_the_midst(folder)) == 2, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with sweeping(file, "--launcher", "command") as process:
        assert process.wait(PATIENCE) == 0, said(process)
    assert [row["status"] for row in rows(folder)] == ["completed"] * 3
    assert next_number() - before == 4
    assert not list(folder.glob("runs/*/.job.json"))


def test_a_job_that_is_cancelled_saves_and_is_resumed_and_one_that_fails_is_named(
    study: Callable[..., Path], tmp_path: Path
) -> None:
    file, folder = study(command=SGE, seeds=[0], lr=[3e-3, 1e30]), tmp_path / "study"
    with sweeping(file, "--launcher", "command") as process:
        (run,) = wait_for(lambda: [run for run in in_the_midst(folder) if "0.003" in run.name], process)
        asked("qdel", number_of(run))
        assert process.wait(PATIENCE) == 1, said(process)
    states = {row["lr"]: row["status"] for row in rows(folder)}
    assert states == {3e-3: "completed", 1e30: "failed"}, said(process)
    assert "Stopped by SIGTERM" in (run / "log.txt").read_text()
    assert "1 of 2 runs are not done" in said(process)


def test_a_job_in_the_error_state_is_taken_out_of_the_queue_and_named(
    study: Callable[..., Path], tmp_path: Path
) -> None:
    file = study(command={**SGE, "options": ["-wd", "/nowhere/at/all"]}, seeds=[0], retries=0)
    with sweeping(file, "--launcher", "command") as process:
        assert process.wait(PATIENCE) == 1, said(process)
    assert "failed (Eqw)" in said(process)
    assert "Eqw" not in asked("qstat", "-u", "*")


def test_a_refused_option_is_told_in_the_words_of_qsub(study: Callable[..., Path], tmp_path: Path) -> None:
    file = study(command={**SGE, "options": ["-q", "lnog"]}, seeds=[0])
    with sweeping(file, "--launcher", "command") as process:
        assert process.wait(PATIENCE) == 1, said(process)
    assert "unknown queue" in said(process)
    assert "(exit code 1)" in said(process)
