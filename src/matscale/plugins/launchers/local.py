"""Launcher `local`: a pool of processes on this machine, one per GPU or some per CPU."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from matscale import hookimpl
from matscale.core.config import Config
from matscale.core.data.crew import n_cores
from matscale.core.errors import ConfigError, MatscaleError
from matscale.core.study.claim import claim
from matscale.core.study.launcher import Ended, Job, Launcher
from matscale.core.train.config import Positive

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
PATIENCE = 120.0
"""Seconds that a run has to save when the sweep is interrupted."""


class LocalOptions(Config):
    """Table `[local]` of a study file."""

    workers: Positive | None = None
    """Runs at once; none: one per GPU, without a GPU one per core."""
    threads: Positive | None = None
    """CPU threads of each; none: the cores, shared out."""
    gpus: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Numbers of the GPUs to use; none: all; []: none of them."""


class LocalPool:
    """Runs as child processes."""

    def __init__(self, options: LocalOptions, study: Path) -> None:
        gpus = _gpus(options)
        self.size = options.workers or len(gpus) or n_cores()
        self.threads = options.threads or max(1, n_cores() // self.size)
        # A worker keeps its slot, and with it its GPU.
        self.slots: list[int | None] = [gpus[k % len(gpus)] if gpus else None for k in range(self.size)]
        self.running: dict[Path, tuple[subprocess.Popen[bytes], int]] = {}
        self.refused: list[Ended] = []

    def room(self) -> int:
        return self.size - len(self.running)

    def held(self) -> dict[Path, str]:
        return dict.fromkeys(self.running, "running")

    def start(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            used = {slot for _, slot in self.running.values()}
            self._start(job, next(k for k in range(self.size) if k not in used))

    def _start(self, job: Job, slot: int) -> None:
        descriptor = claim(job.path)
        if descriptor is None:
            self.refused.append(Ended(job.path, None, "another process took it up", retry=False))
            return
        try:
            with job.log.open("ab") as log:
                process = subprocess.Popen(
                    job.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment(slot),
                    pass_fds=(descriptor,),
                    start_new_session=True,  # Ctrl-C is for the sweep, which has its runs save
                )
        except OSError as error:
            raise MatscaleError(f"{job.path}: its process could not be started ({error}).") from error
        finally:
            os.close(descriptor)
        self.running[job.path] = (process, slot)

    def _environment(self, slot: int) -> dict[str, str]:
        threads = dict.fromkeys(THREADS, str(self.threads))
        gpu = self.slots[slot]
        chosen = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)}
        return os.environ | threads | chosen | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}

    def ended(self) -> list[Ended]:
        over = [(path, process) for path, (process, _) in self.running.items() if process.poll() is not None]
        for path, _ in over:
            del self.running[path]
        refused, self.refused = self.refused, []
        return refused + [Ended(path, process.returncode) for path, process in over]

    def stop(self) -> str:
        for process, _ in self.running.values():
            process.terminate()
        end = time.monotonic() + PATIENCE
        for process, _ in self.running.values():
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()  # it resumes from its last checkpoint
                process.wait()
        return ""


def _gpus(options: LocalOptions) -> list[int]:
    import torch

    there = torch.cuda.device_count()
    wanted = range(there) if options.gpus is None else options.gpus
    missing = [gpu for gpu in wanted if gpu >= there]
    if missing:
        raise ConfigError(f"local.gpus = {list(wanted)}: torch sees {there} GPUs here, counted from 0.")
    return list(wanted)


def _open(options: Any, study: Path) -> LocalPool:
    return LocalPool(options, study)


@hookimpl
def register_launchers() -> list[Launcher]:
    return [Launcher("local", "processes on this machine, one per GPU or core", LocalOptions, _open)]
