"""Studies small enough to do in a test; pools that train nothing, or here, or from a fork server that is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tomli_w

from matscale.core.config import read_toml
from matscale.core.locks import claim, is_claimed
from matscale.core.runs import checkpoint
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import CONFIG, PLANNED, TIMINGS, Run
from matscale.core.study.config import Study
from matscale.core.study.launcher import Ended, Job
from matscale.core.study.plan import StudyPlan, plan
from matscale.core.study.sweep import Sweep
from matscale.core.train.session import train
from matscale.plugins.launchers.fork_server import ForkServer


def study_file(folder: Path, packed: Path, /, **values: Any) -> Path:
    """A study of four runs of fcn, with `values` on top; a key whose value is None is left out."""
    study = {
        "output": str(folder / "study"),
        "architectures": ["fcn"],
        "params": ["2k", "3k"],
        "data": {"path": str(packed)},
        "seeds": [0, 1],
        "lr": 3e-3,
        "budget": {"steps": 6},
        "set": {"batch": {"structures": 4}, "compute": {"device": "cpu", "threads": 1}, "log_every": 2},
        **values,
    }
    path = folder / "study.toml"
    path.write_text(tomli_w.dumps({k: v for k, v in study.items() if v is not None}))
    return path


def planned(folder: Path, packed: Path, /, **values: Any) -> StudyPlan:
    return plan(Study.read(study_file(folder, packed, **values)))


class FakePool:
    """Takes `size` jobs at a time; what becomes of one is for `ends` to say, when it is asked what ended."""

    def __init__(self, ends: Callable[[Path, int], int | None] = lambda run, attempt: 0, size: int = 2) -> None:
        self.ends, self.size = ends, size
        self.running: list[Path] = []
        self.started: list[Path] = []
        self.stopped = False

    def room(self) -> int:
        return self.size - len(self.running)

    def start(self, jobs: Sequence[Job]) -> None:
        self.running += [job.path for job in jobs]
        self.started += [job.path for job in jobs]

    def held(self) -> dict[Path, str]:
        return dict.fromkeys(self.running, "running")

    def ended(self) -> list[Ended]:
        over, self.running = self.running, []
        return [Ended(run, self._end(run)) for run in over]

    def _end(self, run: Path) -> int | None:
        code = self.ends(run, self.started.count(run))
        if code == 0:
            completed(run)
        return code

    def stop(self) -> str:
        self.stopped = True
        return "Nothing goes on."

    def close(self) -> None:
        assert not self.running


class Here:
    """A pool that trains in this very process."""

    def __init__(self) -> None:
        self.over: list[Ended] = []

    def room(self) -> int:
        return 1

    def held(self) -> dict[Path, str]:
        return {}

    def start(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            descriptor = claim(job.path)
            assert descriptor is not None
            try:
                begun = (job.path / CONFIG).exists()
                train(TrainConfig.parse(read_toml(job.path / (CONFIG if begun else PLANNED))), job.path, resume=begun)
            finally:
                os.close(descriptor)
            self.over.append(Ended(job.path, 0))

    def ended(self) -> list[Ended]:
        over, self.over = self.over, []
        return over

    def stop(self) -> str:
        return ""

    def close(self) -> None:
        pass


def completed(run: Path, **info: Any) -> Run:
    """Leave the record that a training leaves."""
    config = TrainConfig.parse(read_toml(run / PLANNED))
    record = Run.create(run, config) if not (run / "config.toml").exists() else Run.open(run)
    record.update({"status": "completed", "labels": config.labels, "seed": config.seed, "flops": 100.0, **info})
    return record


def rows(folder: Path) -> list[dict[str, Any]]:
    """The ledger of a study."""
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def trained(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Run -> all that its training computed: rows without what depends on the machine, weights, totals."""
    found = {}
    for path in sorted((folder / "runs").iterdir()):
        run = Run.open(path)
        rows_of_run = [{k: v for k, v in row.items() if k not in TIMINGS} for row in run.metrics()]
        weights = checkpoint.load_weights(checkpoint.folder_of(run.checkpoint_folder, run.last))
        totals = {key: run.info[key] for key in ("status", "steps", "flops", "structures", "atoms")}
        found[path.name] = (rows_of_run, list(run.samples), {k: v.tolist() for k, v in weights.items()}, totals)
    return found


def swept_here(file: Path) -> None:
    """Do a study, or what is left of it, in this process."""
    study = plan(Study.read(file))
    with patch("matscale.core.study.sweep.PAUSE", 0.0):
        sweep = Sweep(study, Here())
        sweep.run()
        sweep.conclude()


class Lent:
    """A fork server for one pool, kept in `kept` for the next pool under the same environment: each takes seconds."""

    def __init__(self, kept: dict[str, ForkServer], environment: dict[str, str]) -> None:
        same = {name: value for name, value in environment.items() if name != "PYTEST_CURRENT_TEST"}
        key = json.dumps([os.getcwd(), same], sort_keys=True)
        if key in kept and kept[key]._process.poll() is not None:  # a test has killed it
            kept.pop(key).close()
        if key not in kept:
            kept[key] = ForkServer(environment)
        self._server, self._process = kept[key], kept[key]._process
        self._begun: set[Path] = set()

    def start(self, job: Job, claim: int, environment: dict[str, str]) -> None:
        self._begun.add(job.path)
        self._server.start(job, claim, environment)

    def signal(self, path: Path, number: int) -> None:
        self._server.signal(path, number)

    def ended(self) -> list[tuple[Path, int | None, str]]:
        return [end for end in self._server.ended() if end[0] in self._begun]  # not what another pool has left

    def close(self) -> None:
        pass


# Sweeps as processes ------------------------------------------------------------------------------------------------

PATIENCE = 280.0
"""Seconds, far above what a loaded machine takes: only a fault uses them up."""


@contextmanager
def sweeping(file: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`matscale sweep FILE` as a process; what it says goes into a file, see `said`."""
    command = [sys.executable, "-m", "matscale", "sweep", str(file), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with file.with_suffix(".said").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def said(process: subprocess.Popen[bytes]) -> str:
    """All that the sweeps of this study have said so far."""
    file = next(Path(str(word)) for word in process.args if str(word).endswith(".toml"))  # type: ignore[union-attr]
    return file.with_suffix(".said").read_text()


def wait_for(done: Callable[[], Any], process: subprocess.Popen[bytes] | None = None) -> Any:
    """What `done` returns once it is true; an error if the process ends before."""
    end = time.monotonic() + PATIENCE
    while not (found := done()):
        assert time.monotonic() < end
        assert process is None or process.poll() is None, said(process)
        time.sleep(0.02)
    return found


def in_the_midst(folder: Path) -> list[Path]:
    """Runs of a study that have written rows and are not complete."""
    begun = [path.parent for path in (folder / "runs").glob("*/metrics.jsonl")]
    running = [run for run in begun if json.loads((run / "run.json").read_text())["status"] == "running"]
    return [run for run in running if is_claimed(run)]  # not those of which a killed process said so


def process_of(run: Path) -> int:
    """The process that trains a run, by the lock that it took; once it trains, not one that did before."""
    return int(wait_for(lambda: (words := (run / ".lock").read_text().split()) and _lives(words[1]) and words[1]))


def _lives(process: str) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
