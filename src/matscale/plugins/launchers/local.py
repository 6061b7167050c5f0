"""Launcher `local`: a pool of processes on this machine, one per GPU or several on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from matscale.plugin import (
    Config,
    ConfigError,
    Ended,
    Job,
    Launcher,
    MatscaleError,
    claim_run,
    hookimpl,
    is_run_claimed,
    usable_cores,
)
from matscale.plugins.launchers.fork_server import ForkServer

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
"""Environment variables of distributed training, with the values for a run of a single process."""
PATIENCE = 120.0
"""Seconds that each run gets to save its state when the sweep is interrupted."""


Workers = Annotated[int, Field(ge=1, le=1024)]
"""Number of threads or processes. It is limited, since more would overload the machine at the start."""


class LocalOptions(Config):
    """Table `[local]` of a study file."""

    workers: Workers | None = None
    """Number of runs at the same time; default: one per GPU, or one per core without a GPU."""
    threads: Workers | None = None
    """CPU threads of each run; default: the number of cores divided by the number of workers."""
    gpus: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Numbers of the GPUs to use; default: all of them; []: none."""
    warm: bool = True
    """Whether runs are forked from a process that has imported all modules, which saves seconds per run.

    If false, each run starts as a new process.
    """


class LocalPool:
    """Pool of processes that go on if the sweep is killed, but save and end if the sweep is interrupted."""

    def __init__(self, options: LocalOptions) -> None:
        gpus = _gpus(options)
        self.size = options.workers or len(gpus) or usable_cores()
        self.warm = options.warm and sys.platform == "linux"
        # A worker keeps its slot, and with it its GPU.
        self.gpus: list[int | None] = [gpus[k % len(gpus)] if gpus else None for k in range(self.size)]
        threads = options.threads or max(1, usable_cores() // self.size)
        path = os.pathsep.join(p for p in sys.path if p)
        self.environment = os.environ | dict.fromkeys(THREADS, str(threads)) | ALONE | {"PYTHONPATH": path}
        self.slots: dict[Path, int] = {}
        self.processes: dict[Path, subprocess.Popen[bytes]] = {}
        """Processes by run folder, without those that the fork server started."""
        self.orphans: set[Path] = set()
        """Folders of runs that go on although their fork server has ended."""
        self.fork_server: ForkServer | None = None
        self._refused: list[Ended] = []

    def room(self) -> int:
        return self.size - len(self.slots)

    def held(self) -> dict[Path, str]:
        return dict.fromkeys(self.slots, "running")

    def start(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            descriptor = claim_run(job.path)
            if descriptor is None:
                self._refused.append(Ended(job.path, None, "another process trains this run", retry=False))
                continue
            try:
                self._start(job, descriptor)
            except OSError as error:
                raise MatscaleError(f"{job.path}: its process could not be started ({error}).") from error
            finally:
                os.close(descriptor)

    def _start(self, job: Job, descriptor: int) -> None:
        slot = next(k for k in range(self.size) if k not in self.slots.values())
        gpu = self.gpus[slot]
        chosen = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)}
        if self.warm:
            self.fork_server = self.fork_server or ForkServer(self.environment)
            self.fork_server.start(job, descriptor, chosen)
        else:
            self.processes[job.path] = self._anew(job, descriptor, self.environment | chosen)
        self.slots[job.path] = slot

    def _anew(self, job: Job, descriptor: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with job.log.open("ab") as log:
            return subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=(descriptor,),
                start_new_session=True,  # only the sweep gets Ctrl-C, and tells its runs to save
            )

    def ended(self) -> list[Ended]:
        over = [Ended(path, p.returncode) for path, p in self.processes.items() if p.poll() is not None]
        over += [Ended(path, None) for path in self.orphans if not is_run_claimed(path)]
        over += self._of_fork_server()
        for end in over:
            del self.slots[end.path]
            self.processes.pop(end.path, None)
            self.orphans.discard(end.path)
        refused, self._refused = self._refused, []
        return refused + over

    def _of_fork_server(self) -> list[Ended]:
        if self.fork_server is None:
            return []
        try:
            return [Ended(path, code, error) for path, code, error in self.fork_server.ended()]
        except OSError:  # the server was killed; its processes go on, and the next run starts another server
            self.close()
            self.orphans |= set(self.slots) - set(self.processes)
            return []

    def stop(self) -> str:
        self._signal(signal.SIGTERM)
        end = time.monotonic() + PATIENCE
        left = [path for path in self.slots if path not in self.orphans]
        while left and time.monotonic() < end:
            time.sleep(0.05)
            over = self.ended()
            self._refused += over
            left = [path for path in left if path in self.slots and path not in self.orphans]
        if left:
            self._signal(signal.SIGKILL)  # they resume from their last checkpoints
        return ""

    def end(self, path: Path) -> None:
        """Make one run save and end; `ended` lists it afterwards."""
        if path in self.processes:
            self.processes[path].send_signal(signal.SIGTERM)
        elif path in self.slots and self.fork_server is not None:
            with suppress(OSError):  # the server has ended, but its processes go on
                self.fork_server.signal(path, signal.SIGTERM)

    def close(self) -> None:
        if self.fork_server is not None:
            self.fork_server.close()
            self.fork_server = None

    def _signal(self, number: int) -> None:
        for process in self.processes.values():
            process.send_signal(number)
        if self.fork_server is not None:
            with suppress(OSError):  # the server has ended, but its processes go on
                for path in self.slots:
                    self.fork_server.signal(path, number)


def _gpus(options: LocalOptions) -> list[int]:
    import torch  # start-up: torch

    there = torch.cuda.device_count()
    wanted = range(there) if options.gpus is None else options.gpus
    missing = [gpu for gpu in wanted if gpu >= there]
    if missing:
        raise ConfigError(
            f"local.gpus = {list(wanted)}: torch sees {there} GPUs here, numbered from 0, so there is no {missing[0]}."
        )
    return list(wanted)


def _open(options: Any, study: Path) -> LocalPool:
    return LocalPool(options)


@hookimpl
def register_launchers() -> list[Launcher]:
    return [Launcher("local", "processes on this machine, one per GPU or core", LocalOptions, _open)]
