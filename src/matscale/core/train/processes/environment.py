"""Place of this process among those that torchrun, srun or mpirun started, read from the environment without torch."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from matscale.core.errors import ConfigError

_TASKS = {
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpiexec",
    "FLUX_JOB_SIZE": "flux run",
    "JSM_NAMESPACE_SIZE": "jsrun",
}
"""Launchers other than torchrun and srun, by the environment variable in which each states its number of tasks."""


class Place(NamedTuple):
    """Rank of a process, number of processes, rank on its machine, and where they meet (a URL of torch.distributed)."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    meeting: str = "env://"


def place_of_process() -> Place:
    """Place of this process, from the variables of torchrun or, without these, of a step of Slurm (srun).

    Raises ConfigError if the variables are inconsistent, and if another launcher has started several tasks, each of
    which would train a copy of the same run.
    """
    refuse_copies_of_training()
    if "WORLD_SIZE" not in os.environ and _number("SLURM_STEP_NUM_TASKS", 1, "srun") > 1:
        names = (("SLURM_PROCID", 0), ("SLURM_STEP_NUM_TASKS", 1), ("SLURM_LOCALID", 0))
        return Place(*_ranks("srun", *names), _meeting_of_step())
    return Place(*_ranks("torchrun", ("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))


def _ranks(launcher: str, *variables: tuple[str, int]) -> tuple[int, int, int]:
    """Read (rank, size, local rank) from environment variables, given by their names and defaults."""
    (of_rank, _), (of_size, _), _ = variables
    rank, size, local = (_number(name, default, launcher) for name, default in variables)
    if not 0 <= rank < size:
        raise ConfigError(f"{of_rank} = {rank}: must be 0 or more and below {of_size} = {size}. {launcher} sets both.")
    return rank, size, local


def _number(name: str, default: int, launcher: str = "torchrun") -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise ConfigError(f"{name} = {value!r} in the environment: expected a whole number, as {launcher} sets it.")
    return int(value)


def _meeting_of_step() -> str:
    """URL at which the tasks of a Slurm step meet: the machine of the first task, and a port of this step alone."""
    hosts = os.environ.get("SLURM_STEP_NODELIST", "")
    if _number("SLURM_STEP_NUM_NODES", 1, "srun") == 1:
        host = "127.0.0.1"
    elif hosts:
        host = first_host(hosts)
    else:  # right if srun was started on the first machine; Slurm before 14 has no list for the step
        host = os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "")
    if not host:
        raise ConfigError(
            "srun has started several tasks, but SLURM_STEP_NODELIST and SLURM_LAUNCH_NODE_IPADDR do not say where "
            "they meet. Use torchrun."
        )
    job, step = (_number(name, 0, "srun") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return f"tcp://{host}:{_FIRST_PORT + (job * 64 + step) % _N_PORTS}"


_FIRST_PORT, _N_PORTS = 12_000, 20_000
"""Range of ports at which the tasks of Slurm steps meet, below those that systems give to clients."""


def first_host(hosts: str) -> str:
    """First host of a Slurm list.

    >>> first_host("gpu[003-007,9],login"), first_host("rack[2-3]n[01-16]"), first_host("a,b")
    ('gpu003', 'rack2n01', 'a')
    """
    # Commas within brackets do not separate hosts.
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])+", hosts)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first.group()) if first else ""


def tasks() -> tuple[int, str]:
    """Number of tasks that a launcher started, of which this process is one, and the name of the launcher.

    WORLD_SIZE=1 states that this process has work of its own.
    """
    if "WORLD_SIZE" not in os.environ:
        for variable, launcher in {"SLURM_STEP_NUM_TASKS": "srun", **_TASKS}.items():
            if (n := _number(variable, 1, launcher)) > 1:
                return n, launcher
    return _number("WORLD_SIZE", 1), "torchrun"


def refuse_copies(command: str) -> None:
    """Raise ConfigError if several tasks run a command that does not share its work, and would each do all of it."""
    n, launcher = tasks()
    if n > 1:
        raise ConfigError(
            f"{launcher} has started {n} tasks of `matscale {command}`, and each would do the same work and write the "
            "same files. Start it once; only `matscale train` shares its work among tasks. If each task has work and "
            "files of its own, set WORLD_SIZE=1."
        )


def refuse_copies_of_training() -> None:
    """Raise ConfigError if a launcher whose tasks cannot join one training has started several of them."""
    n, launcher = tasks()
    if n > 1 and launcher not in ("torchrun", "srun"):
        raise ConfigError(
            f"{launcher} has started {n} tasks, and each would train a copy of the same run. For one run on {n} "
            f"processes of this machine, start one task, with: matscale train --devices {n} ... On several "
            "machines, use srun, or torchrun on each. If each task trains a run of its own, in a folder of its "
            "own, set WORLD_SIZE=1."
        )
