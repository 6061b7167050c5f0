"""The launcher `hyperqueue` on a real server and worker of HyperQueue, from its package on PyPI."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import pytest

from matscale.core.errors import ConfigError, MatscaleError
from matscale.core.study.launcher import Ended, Job
from matscale.plugins.launchers import batch, hyperqueue_client
from matscale.plugins.launchers.hyperqueue import HyperQueueOptions, _open
from studies import PATIENCE, in_the_midst, process_of, rows, said, sweeping, wait_for

pytest.importorskip("hyperqueue", reason="the package hyperqueue is not installed: pip install hyperqueue")

ALLOCATION = """
import sys, time
from hyperqueue import LocalCluster
from hyperqueue.cluster import WorkerConfig
cluster = LocalCluster(sys.argv[1], WorkerConfig(cores=2))
print("up", flush=True)
time.sleep(3600)
"""


@contextmanager
def allocation(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A server and a worker of two cores, as in a job of a cluster; at its end both are gone, with their jobs."""
    command = [sys.executable, "-c", ALLOCATION, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        assert any(line == "up\n" for line in process.stdout)
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the server."""
    folder = tmp_path / "hq-server"
    monkeypatch.setenv("HQ_SERVER_DIR", str(folder))
    return folder


def test_without_a_server_the_launcher_says_how_to_get_one(server: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    pool = _open(HyperQueueOptions(), tmp_path / "study")
    with pytest.raises(MatscaleError, match=r"no server of HyperQueue. Start one, or set HQ_SERVER_DIR"):
        pool.start([Job(tmp_path / "run")])


def test_without_the_package_the_launcher_names_it_and_the_way_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'matscale\[hyperqueue\]'.*preset = \"hq\""):
        _open(HyperQueueOptions(), tmp_path)


@pytest.mark.parametrize("text", ["gpus/nvidia", "=1", "cpus="])
def test_a_resource_without_an_amount_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="is not NAME=AMOUNT"):
        hyperqueue_client.resource(text)


STANDS_IN = """#!/bin/sh
echo + >>{marks}
sleep 0.5
echo - >>{marks}
"""


@pytest.mark.parametrize("n", [12, pytest.param(300, marks=pytest.mark.long)])
def test_short_jobs_share_cores_and_the_jobs_of_a_server_that_is_gone_are_lost(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    """A program that sleeps stands in for the training; each has half a core of two. One waits for half a GPU."""
    stub, marks, study = tmp_path / "python", tmp_path / "marks", tmp_path / "study"
    stub.write_text(STANDS_IN.format(marks=marks))
    stub.chmod(0o755)
    monkeypatch.setattr(batch, "sys", SimpleNamespace(executable=str(stub)))
    runs = [study / "runs" / f"fcn-{k}" for k in range(n)]
    for run in runs:
        run.mkdir(parents=True)
    with allocation(server):
        pool = _open(HyperQueueOptions(options=("--resource", "gpus/nvidia=0.5")), study)
        pool.start([Job(runs[0])])
        pool = _open(HyperQueueOptions(poll=1.0, options=("--resource", "cpus=0.5")), study)
        pool.start([Job(run) for run in runs[1:]])
        ended: list[Ended] = []
        while len(ended) < n - 1:
            ended += pool.ended()
            time.sleep(0.1)
        assert {(end.path, end.code) for end in ended} == {(run, 0) for run in runs[1:]}
        assert pool.held() == {runs[0]: "queued"}
    changes = [1 if mark == "+" else -1 for mark in marks.read_text().split()]
    assert max(accumulate(changes)) == 4
    with allocation(server):
        (lost,) = wait_for(_open(HyperQueueOptions(poll=0.1), study).ended)
        assert lost.path == runs[0]
        assert "is gone from the queue and left no exit code" in lost.reason


@pytest.mark.long
def test_a_study_survives_the_end_of_the_allocation(study: Callable[..., Path], server: Path, tmp_path: Path) -> None:
    table = {"poll": 0.5, "options": ["--resource", "cpus=1"]}
    file, folder = study(hyperqueue=table, seeds=[0, 1, 2]), tmp_path / "study"
    with allocation(server), sweeping(file, "--launcher", "hyperqueue") as process:
        at_work = wait_for(lambda: in_the_midst(folder), process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    for run in in_the_midst(folder):
        os.kill(process_of(run), signal.SIGKILL)  # a cluster ends all that an allocation has started
    with allocation(server), sweeping(file, "--launcher", "hyperqueue") as process:
        assert process.wait(PATIENCE) == 0, said(process)
    assert [row["status"] for row in rows(folder)] == ["completed"] * 3
    assert (at_work[0] / "log.txt").read_text().count("Job of hyperqueue") == 2
