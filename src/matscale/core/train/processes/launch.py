"""Processes for `matscale train --devices N`, started and watched by the elastic agent of torchrun.

The parent starts N processes of `matscale train` and ends with the exit code of the first that failed. In a folder of
the launch, the processes agree on two facts that the agent does not know: which process prints its error, and whether
an error is final, so that a restart would repeat it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from matscale.core.config import to_toml
from matscale.core.errors import ConfigError, MatscaleError, PeerLost
from matscale.core.runs.config import ComputeConfig, TrainConfig
from matscale.core.threads import shared_among
from matscale.core.train.stop import Interrupted, caught

_FOLDER = "MATSCALE_LAUNCH"
"""Environment variable with the folder of the launch, set for the processes that `launch` starts."""
_PARENT = "MATSCALE_LAUNCH_PID"
"""Environment variable with the id of the process that runs the agent."""
_RESTARTS = "TORCHELASTIC_RESTART_COUNT"
_FINAL = (2, 3, 4, 5)
"""Exit codes after which the processes are not started again."""
_PATIENCE = 3.0
"""Time for which a process waits for the error of another process that has died [s]."""
_LOOK = 0.5
"""Time between two looks at whether the process that runs the agent is alive [s]."""


def n_processes(devices: int | None, config: ComputeConfig) -> int:
    """Number of processes for `--devices`: as given, or, for None (`auto`), one per visible GPU.

    Raises ConfigError if there are not as many GPUs, and if a launcher has started this process as one of several.
    """
    import torch  # start-up: torch

    from matscale.core.train.processes.world import World  # start-up: torch

    if (size := World.from_environment().size) > 1:
        raise ConfigError(
            f"--devices starts the processes of a run, but a launcher has started {size} already. Leave --devices out, "
            "or start `matscale train --devices` once."
        )
    kind, _, number = config.device.partition(":")
    gpus = torch.cuda.device_count() if kind in ("auto", "cuda") else 0
    if kind == "cpu" or (kind == "auto" and not gpus):
        return devices or 1
    if number and devices not in (None, 1):
        raise ConfigError(
            f"--devices {devices}: --device {config.device} names one GPU. Leave :{number} out, and set "
            "CUDA_VISIBLE_DEVICES to choose among GPUs."
        )
    n = devices or (1 if number else max(gpus, 1))
    if n > gpus:
        raise ConfigError(
            f"--devices {n}: torch sees {gpus} GPUs here. Use --devices auto for all of them, or --device cpu for "
            "processes on the cores of the CPU."
        )
    return n


def launch(n: int, restarts: int, config: TrainConfig, folder: Path, options: Sequence[str]) -> int:
    """Train a run in `n` processes and return the exit code: 0, or that of the first process that failed.

    `options` are further options of `matscale train`. Up to `restarts` times, all processes are started again after one
    of them died, and go on from the last checkpoint.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException  # start-up: torch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # start-up: torch
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # start-up: torch

    with tempfile.TemporaryDirectory(prefix="matscale-") as shared:
        settings = Path(shared) / "config.toml"
        settings.write_text(to_toml(config.plain()), encoding="utf-8")
        environment = {_PARENT: str(os.getpid()), **shared_among(n)}
        command = ("-P", "-m", "matscale", "train", "--config", str(settings), "-o", str(folder), *options)
        with _environment({_FOLDER: shared, **environment}), _silence():
            agent = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=n,
                run_id=Path(shared).name,
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                local_addr="127.0.0.1",
                max_restarts=restarts,
                signals_to_handle=",".join(number.name for number in caught()),
                # A run that is asked to stop saves first: the agent waits so long before it kills.
                shutdown_timeout=round(config.compute.timeout),
            )
            try:
                elastic_launch(agent, sys.executable)(*command)
            except ChildFailedError as error:
                # Those that lost another process are not the first that failed.
                first = min(error.failures.values(), key=lambda f: (f.exitcode == PeerLost.exit_code, f.timestamp))
                code = first.exitcode if first.exitcode > 0 else 128 - first.exitcode  # of a signal, as shells say it
                return _final(Path(shared)) or code
            except SignalException:
                return _final(Path(shared)) or 5
    return 0


def is_restarted() -> bool:
    """Whether `launch` has started this process again after another one of the run died."""
    return _FOLDER in os.environ and int(os.environ.get(_RESTARTS, "0")) > 0


@contextmanager
def reported() -> Iterator[None]:
    """Context of a training, in which the processes of one launch agree who prints an error; otherwise without effect.

    A process that is started again after a final error ends at once, with the same exit code.
    """
    if _FOLDER not in os.environ:
        yield
        return
    shared = Path(os.environ[_FOLDER])
    if parent := os.environ.get(_PARENT):
        threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    if code := _final(shared):
        raise SystemExit(code)
    said = f"said-{os.environ.get(_RESTARTS, '0')}"
    try:
        yield
    except MatscaleError as error:
        _hold_signals()
        if error.exit_code in _FINAL and not _is_interrupted(error):
            _claimed(shared / "exit-code", str(error.exit_code))
        elif isinstance(error, PeerLost):
            _wait_for(shared / said)
        if not _claimed(shared / said):
            raise SystemExit(error.exit_code) from None
        raise
    except Exception:
        _claimed(shared / said)
        raise


def _end_with(parent: int) -> None:
    """Ask this process to save and stop once the agent has died, since no other process watches it then.

    An agent that is killed sends no signal, and not every kernel sends one in its place."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGTERM)


def _is_interrupted(error: MatscaleError) -> bool:
    """Whether a signal came before the first step: the agent sends one to the remaining processes when one has died."""
    return isinstance(error.__cause__, Interrupted)


def _hold_signals() -> None:
    """Ignore further signals, since the agent sends SIGTERM to all processes as soon as the first has ended."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _claimed(path: Path, text: str = "") -> bool:
    """Create a file with `text`; False if another process has created it before."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    except FileNotFoundError:  # the agent has died, and its folder is gone
        return True
    return True


def _final(shared: Path) -> int | None:
    try:
        text = (shared / "exit-code").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return int(text) if text else None


def _wait_for(path: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Context in which environment variables are set, for processes that are started in it."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _silence() -> Iterator[None]:
    """Context in which the elastic agent logs nothing: the processes print their own errors."""
    logger = logging.getLogger("torch.distributed.elastic")
    handler, propagated = logging.NullHandler(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated
