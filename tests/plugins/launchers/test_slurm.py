"""The launcher `slurm`: its scripts, what it makes of the queue, and a study on a real Slurm of one node."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from matscale.core.errors import ConfigError, MatscaleError
from matscale.core.study.launcher import Ended, Job
from matscale.plugins.launchers.slurm import SlurmOptions, SlurmPool, script
from studies import PATIENCE, in_the_midst, process_of, rows, said, sweeping, trained, wait_for

# A Slurm that answers from files ------------------------------------------------------------------------------------

FAKE = """#!/bin/sh
echo "$(basename $0) $*" >>{folder}/calls
[ ! -f {folder}/broken ] || {{ cat {folder}/broken >&2; exit 1; }}
cat {folder}/$(basename $0).out 2>/dev/null || true
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder: what a command is to print is read from `<command>.out`; if there is a file `broken`, all fail."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scontrol"):
        (folder / name).write_text(FAKE.format(folder=folder))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    paths = [tmp_path / "study" / "runs" / name for name in ("a", "b")]
    for path in paths:
        path.mkdir(parents=True)
    return [Job(path) for path in paths]


def pool(tmp_path: Path, **options: Any) -> SlurmPool:
    return SlurmPool(SlurmOptions(**{"poll": 1e-6, **options}), tmp_path / "study")


def test_what_is_in_the_queue_is_known_to_the_next_sweep(slurm: Path, jobs: list[Job], tmp_path: Path) -> None:
    first = pool(tmp_path)
    first.start(jobs)
    name = f"{first.prefix}0001"
    (slurm / "squeue.out").write_text(f"{name}|1|RUNNING\n{name}|2|PENDING\nsomebody-elses|1|RUNNING\n")
    second = pool(tmp_path)
    assert second.held() == {jobs[0].path: "running", jobs[1].path: "queued"}
    (jobs[0].path / ".exit-code").write_text("3\n")
    (slurm / "squeue.out").write_text(f"{name}|1|FAILED\n{name}|2|CANCELLED\n")
    ended = {end.path: end for end in second.ended()}
    assert ended[jobs[0].path] == Ended(jobs[0].path, 3)
    assert ended[jobs[1].path] == Ended(jobs[1].path, None, "Slurm: cancelled", retry=False)
    assert second.held() == {}
    assert second.ended() == []


def test_what_the_queue_has_forgotten_is_told_by_the_run_folder(slurm: Path, jobs: list[Job], tmp_path: Path) -> None:
    sweep = pool(tmp_path)
    sweep.start(jobs)
    (jobs[0].path / ".exit-code").write_text("137\n")
    assert {end.path: end.code for end in sweep.ended()} == {jobs[0].path: 137, jobs[1].path: None}


def test_an_array_is_a_script_and_a_list_of_runs(slurm: Path, jobs: list[Job], tmp_path: Path) -> None:
    sweep = pool(tmp_path, partition="long", time="2h", gpus=1, cpus=4, memory="8G", at_once=3, sbatch=["--nice=5"])
    sweep.start(jobs)
    sweep.start(jobs[:1])
    folder = tmp_path / "study" / "slurm"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"array-000{k}.{kind}" for k in (1, 2) for kind in ("sh", "txt")
    ]
    assert (folder / "array-0001.txt").read_text() == f"{jobs[0].path}\n{jobs[1].path}\n"
    text = (folder / "array-0001.sh").read_text()
    for option in ("array=1-2%3", "partition=long", "time=120", "gres=gpu:1", "cpus-per-task=4", "mem=8G", "nice=5"):
        assert f"#SBATCH --{option}\n" in text
    assert f"sbatch --parsable {folder / 'array-0001.sh'}" in (slurm / "calls").read_text()


def test_a_job_has_no_less_time_than_was_asked_for() -> None:
    """In whole minutes; 150 s as 2 minutes would be told to save, 120 s before their end, at once, again and again."""
    assert "\n#SBATCH --time=3\n" in script(SlurmOptions(time=150.0, margin=120.0), "name", Path("/list"), 1)


def test_more_than_one_gpu_is_a_process_for_each_and_a_signal_for_all() -> None:
    text = script(SlurmOptions(gpus=4, setup=("module load cuda",)), "name", Path("/list"), 1)
    assert re.search(r"-m matscale train .* --devices 4 ", text)  # whose exit code and time to save are those of a run
    assert 'kill -USR1 "$child"' in text
    assert "\nmodule load cuda\n" in text


@pytest.mark.parametrize("options", [{}, {"gpus": 2}, {"processes": 3, "setup": ("a 'b'",)}], ids=str)
def test_a_script_is_bash_without_syntax_errors(tmp_path: Path, options: dict[str, Any]) -> None:
    if options.get("setup"):
        options = {**options, "setup": ("echo 'hello'",)}
    text = script(SlurmOptions(**options), "name", tmp_path / "a list", 3)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_a_refused_array_leaves_nothing_and_says_what_slurm_said(slurm: Path, jobs: list[Job], tmp_path: Path) -> None:
    sweep = pool(tmp_path)
    (slurm / "broken").write_text("invalid partition specified: lnog\n")
    with pytest.raises(MatscaleError, match="invalid partition specified: lnog"):
        sweep.start(jobs)
    assert list((tmp_path / "study" / "slurm").iterdir()) == []


def test_a_queue_that_is_silent_for_a_while_is_waited_for(
    slurm: Path, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = pool(tmp_path)
    sweep.start(jobs)
    (slurm / "broken").write_text("Unable to contact slurm controller\n")
    assert len(sweep.held()) == 2
    monkeypatch.setattr("matscale.plugins.launchers.batch.PATIENCE", 0.0)
    with pytest.raises(MatscaleError, match=r"has not answered.*Unable to contact"):
        sweep.held()


def test_a_slurm_that_is_not_there_is_named_at_once(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slurm / "broken").write_text("Unable to contact slurm controller\n")
    with pytest.raises(ConfigError, match=r"does not reach Slurm: squeue: Unable to contact.*--launcher local"):
        pool(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"needs sbatch, squeue, scontrol"):
        pool(tmp_path)


# A real one ---------------------------------------------------------------------------------------------------------

START = Path(__file__).resolve().parents[2] / "slurm.sh"


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """Variables under which Slurm's commands talk to a node on this machine, which is up for these tests only."""
    folder = Path(tempfile.mkdtemp(prefix="matscale-slurm-"))
    folder.chmod(folder.stat().st_mode | stat.S_IXGRP | stat.S_IXOTH)  # munge runs as a user of its own
    started = subprocess.run([START, "start", folder], capture_output=True, text=True, timeout=60, check=False)
    if started.returncode == 77:
        shutil.rmtree(folder)
        pytest.skip(f"no Slurm to test against: {started.stderr.strip()}")
    assert started.returncode == 0, started.stderr
    yield {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run([START, "stop", folder], timeout=60, check=True)
    shutil.rmtree(folder)


def scontrol(*arguments: str) -> None:
    subprocess.run(["scontrol", *arguments], check=True, timeout=60)


def job_of(run: Path) -> str:
    """`<array>_<task>`, as the script wrote it at the top of the run's log."""
    starts = re.findall(r"^Slurm job (\d+), task (\d+) on", (run / "log.txt").read_text(), flags=re.M)
    return "_".join(starts[-1])


def begun_again(run: Path) -> bool:
    """Whether a requeued job has started by Slurm's own count, as it does seconds later on this cluster (slurm.sh)."""
    return ", start 1" in (run / "log.txt").read_text()


def heeds_signals(run: Path) -> bool:
    """Whether the process of a run has set its handlers, as it has once it trains; before, SIGUSR1 just kills it."""
    words = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{process_of(run)}/status").read_text(), flags=re.M)
    return words is not None and bool(int(words[1], 16) >> (signal.SIGUSR1 - 1) & 1)


def frozen(run: Path) -> int:
    """Hold the training of a run where it is; its process."""
    process = process_of(run)
    os.kill(process, signal.SIGSTOP)
    return process


@pytest.mark.long
def test_a_study_on_a_real_slurm_survives_a_job_that_is_cancelled_one_that_times_out_and_one_that_is_requeued(
    study: Callable[..., Path],
    tmp_path: Path,
    unbroken: dict[str, Any],
    cluster: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster["SLURM_CONF"])
    file, folder = study(slurm={"poll": 0.3, "time": "1h"}), tmp_path / "study"
    with sweeping(file, "--launcher", "slurm") as process:
        cancelled, late = wait_for(lambda: len(runs := in_the_midst(folder)) == 2 and runs, process)
        frozen(cancelled), frozen(late)
        scontrol("update", f"JobId={job_of(late)}", "EndTime=now")
        subprocess.run(["scancel", job_of(cancelled)], check=True)
        assert process.wait(PATIENCE) == 1, said(process)
    told = {row["run"]: row for row in rows(folder)}
    assert (told[cancelled.name]["status"], told[cancelled.name]["reason"]) == ("stopped", "Slurm: cancelled")
    assert told[late.name]["status"] == "completed"
    assert "Slurm: timeout" in said(process)

    with sweeping(file, "--launcher", "slurm") as process:
        wait_for(lambda: cancelled in in_the_midst(folder) and heeds_signals(cancelled), process)
        held, job = frozen(cancelled), job_of(cancelled)
        subprocess.run(["scancel", "--batch", "--signal=USR1", job], check=True)  # as near the end of a job's time
        os.kill(held, signal.SIGCONT)
        wait_for(lambda: "Stopped by SIGUSR1" in (cancelled / "log.txt").read_text(), process)
        wait_for(lambda: begun_again(cancelled), process)
        assert process.wait(PATIENCE) == 0, said(process)
    assert trained(folder) == unbroken
    assert [row["status"] for row in rows(folder)] == ["completed"] * 2
