"""The launcher `local`: what is killed, the sweep or a worker, at whatever moment, costs nothing but time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from matscale.cli import main
from matscale.core.errors import ConfigError
from matscale.core.locks import is_claimed
from matscale.core.study.launcher import Ended, Job
from matscale.plugins.launchers.local import LocalOptions, LocalPool
from studies import PATIENCE, in_the_midst, process_of, rows, said, sweeping, swept_here, trained, wait_for


@pytest.mark.long
def test_a_sweep_that_is_killed_and_whose_worker_is_killed_ends_as_one_left_alone(
    study: Callable[..., Path], tmp_path: Path, unbroken: dict[str, Any]
) -> None:
    file, folder = study(), tmp_path / "study"
    with sweeping(file, "--quiet") as first:
        run = wait_for(lambda: in_the_midst(folder), first)[0]
        first.kill()
        os.kill(process_of(run), signal.SIGKILL)
    with sweeping(file) as second:  # meets an orphan, or what it left, and a run that was killed
        assert second.wait(PATIENCE) == 0, said(second)
    assert trained(folder) == unbroken
    assert [row["status"] for row in rows(folder)] == ["completed"] * 2


@pytest.mark.long
@pytest.mark.parametrize("warm", [True, False])
def test_an_interrupted_sweep_has_its_runs_save_and_ends_with_exit_5(
    study: Callable[..., Path], tmp_path: Path, unbroken: dict[str, Any], warm: bool
) -> None:
    file = study(local={"workers": 2, "threads": 1, "warm": warm})
    with sweeping(file) as process:
        runs = wait_for(lambda: in_the_midst(tmp_path / "study"), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 5, said(process)
    assert "Nothing is lost" in said(process)
    assert not any(is_claimed(run) for run in runs)
    assert json.loads((runs[0] / "run.json").read_text())["status"] in ("stopped", "completed")
    swept_here(file)
    assert trained(tmp_path / "study") == unbroken


def test_a_run_that_is_killed_is_told_as_cut_off_with_the_signal(study: Callable[..., Path], tmp_path: Path) -> None:
    """It would take hours: there is no moment at which it could be over before the signal comes."""
    file = study(budget={"steps": 10_000_000}, seeds=[0], retries=0, local={"workers": 1, "threads": 1})

    def kill() -> str:
        run: Path = wait_for(lambda: in_the_midst(tmp_path / "study"))[0]
        os.kill(process_of(run), signal.SIGKILL)
        return run.name

    with ThreadPoolExecutor(1) as beside:
        killed = beside.submit(kill)
        result = CliRunner().invoke(main, ["sweep", str(file)])
    assert result.exit_code == 1, result.output
    assert f"cut off  {killed.result()}" in result.output
    assert "(killed by SIGKILL" in result.output
    assert [(row["status"], row["reason"][:17]) for row in rows(tmp_path / "study")] == [
        ("crashed", "killed by SIGKILL")
    ]


@pytest.fixture
def pool() -> Iterator[LocalPool]:
    pool = LocalPool(LocalOptions(workers=2, threads=1))
    yield pool
    pool.close()


def ended(pool: LocalPool) -> Ended:
    return wait_for(pool.ended)[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("warm", [True, False])
def test_a_process_that_fails_is_reported_with_its_exit_code_and_its_output(tmp_path: Path, warm: bool) -> None:
    pool = LocalPool(LocalOptions(workers=1, warm=warm))
    (tmp_path / "planned.toml").write_text("seed = 1\n")
    pool.start([Job(tmp_path)])
    assert pool.room() == 0
    assert pool.held() == {tmp_path: "running"}
    assert ended(pool) == Ended(tmp_path, 2)
    assert "Say which architecture" in (tmp_path / "log.txt").read_text()
    assert pool.room() == 1
    pool.close()


def test_what_a_fork_server_began_is_watched_on_when_it_is_killed(pool: LocalPool, tmp_path: Path) -> None:
    (tmp_path / "planned.toml").write_text("seed = 1\n")
    pool.start([Job(tmp_path)])
    assert pool.fork_server is not None
    pool.fork_server._process.kill()
    assert ended(pool) == Ended(tmp_path, None)  # before it could begin, or after
    pool.start([Job(tmp_path)])  # by another fork server
    assert ended(pool) == Ended(tmp_path, 2)
    pool.close()


def test_a_run_that_another_process_has_taken_is_left_to_it(pool: LocalPool, tmp_path: Path) -> None:
    from matscale.core.locks import claim

    descriptor = claim(tmp_path)
    assert descriptor is not None
    pool.start([Job(tmp_path)])
    assert pool.ended() == [Ended(tmp_path, None, "another process trains this run", retry=False)]
    os.close(descriptor)


def test_the_fork_server_forks_since_it_has_one_thread_only() -> None:
    code = "from matscale.plugins.launchers.fork_server import may_fork, warm_up; warm_up(); print(may_fork())"
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout == "True\n", done.stderr


def test_workers_share_out_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matscale.plugins.launchers.local.usable_cores", lambda: 12)
    for options, workers, threads in (({}, 12, "1"), ({"workers": 3}, 3, "4"), ({"workers": 5, "threads": 7}, 5, "7")):
        pool = LocalPool(LocalOptions(**options))
        assert (pool.size, pool.environment["OMP_NUM_THREADS"]) == (workers, threads)


def test_every_worker_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert LocalPool(LocalOptions()).gpus == [0, 1, 2, 3]
    assert LocalPool(LocalOptions(gpus=(1, 3))).gpus == [1, 3]
    assert LocalPool(LocalOptions(gpus=(1,), workers=2)).gpus == [1, 1]
    assert LocalPool(LocalOptions(gpus=(), workers=2)).gpus == [None, None]
    with pytest.raises(ConfigError, match=r"torch sees 4 GPUs"):
        LocalPool(LocalOptions(gpus=(4,)))
