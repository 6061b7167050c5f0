"""Studies small enough to do in a test, and a pool that trains nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from matscale.core.config import read_toml
from matscale.core.study.config import Study
from matscale.core.study.launcher import Ended, Job
from matscale.core.study.plan import Plan, plan
from matscale.core.train.config import TrainConfig
from matscale.core.train.record import PLANNED, Run


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


def planned(folder: Path, packed: Path, /, **values: Any) -> Plan:
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


def completed(run: Path, **info: Any) -> Run:
    """Leave the record that a training leaves."""
    config = TrainConfig.parse(read_toml(run / PLANNED))
    record = Run.create(run, config) if not (run / "config.toml").exists() else Run.open(run)
    record.update({"status": "completed", "labels": config.labels, "seed": config.seed, "flops": 100.0, **info})
    return record


def rows(folder: Path) -> list[dict[str, Any]]:
    """The ledger of a study."""
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
