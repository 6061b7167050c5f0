"""Studies small enough to do in a test, and a pool that trains nothing."""

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

import tomli_w

from matscale.core.config import read_toml
from matscale.core.locks import is_claimed
from matscale.core.runs import checkpoint
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import PLANNED, TIMINGS, Run
from matscale.core.study.config import Study
from matscale.core.study.launcher import Ended, Job
from matscale.core.study.plan import StudyPlan, plan


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
