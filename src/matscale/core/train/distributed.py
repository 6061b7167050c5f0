"""Distributed training: processes started by torchrun train one model, with different batches and the same gradient.

Gradients are summed in one flat buffer after the backward pass. This is exact for uneven batches, since every process
divides by the counts of the global batch. Unlike the hooks of DistributedDataParallel, this also works with second
derivatives and with parameters that a batch does not use.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from matscale.core.errors import ConfigError, PeerLost

_TASKS = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpiexec",
    "FLUX_JOB_SIZE": "flux run",
    "JSM_NAMESPACE_SIZE": "jsrun",
}
"""Launchers other than torchrun, by the environment variable in which each states its number of tasks."""


class World:
    """Group of the processes of a run; an ordinary run has one process."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank

    @classmethod
    def from_environment(cls) -> World:
        """Make the group from the environment variables that torchrun sets.

        Raises ConfigError if they are inconsistent, or if they are missing and another launcher has started several
        tasks, each of which would train a copy of the same run.
        """
        if "WORLD_SIZE" not in os.environ:
            _refuse_copies()
        rank, size, local = (_number(name, default) for name, default in _VARIABLES.items())
        if not 0 <= rank < size:
            raise ConfigError(f"RANK = {rank}: must be 0 or more and below WORLD_SIZE = {size}. torchrun sets both.")
        return cls(rank, size, local)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    def of_main(self, value: float) -> float:
        """Return `value` on the main process and zero on all others, so that a sum over processes counts it once."""
        return value if self.is_main else 0.0

    @contextmanager
    def connected(self, device: torch.device, timeout: float) -> Iterator[None]:
        """Context with the process group of a run (nccl on GPUs, gloo on CPUs); for one process it does nothing.

        Within the context, an error of torch.distributed (a process that ended, or did not answer for `timeout`
        seconds) becomes PeerLost. Raises ConfigError if the environment does not say where the processes meet.
        """
        if self.size == 1 or dist.is_initialized():
            yield
            return
        _check_meeting_place(self.size)
        backend = "nccl" if device.type == "cuda" else "gloo"
        self.timeout = timeout
        with self._answered():
            dist.init_process_group(backend, rank=self.rank, world_size=self.size, timeout=timedelta(seconds=timeout))
        try:
            yield
        finally:
            dist.destroy_process_group()

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Context for operations that wait for other processes; their errors become PeerLost."""
        try:
            yield
        except RuntimeError as error:  # of torch.distributed and gloo, which have many kinds
            raise PeerLost(
                f"Process {self.rank} of {self.size}: another process of the run ended, or did not answer for "
                f"{self.timeout:g} s ({str(error).splitlines()[0]}). Look for its error above. The run goes on "
                "from its last checkpoint with --resume and the same number of processes."
            ) from None

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over processes, in place."""
        if self.size > 1:
            with self._answered():
                dist.all_reduce(tensor)
        return tensor

    def sums(self, values: Mapping[str, float], device: torch.device) -> dict[str, float]:
        """Sum each value over processes, in float64."""
        if self.size == 1:
            return dict(values)
        total = self.sum(torch.tensor(list(values.values()), dtype=torch.float64, device=device))
        return dict(zip(values, total.tolist()))

    def sum_gradients(self, model: nn.Module) -> None:
        """Sum the gradients over all processes; a missing gradient on a process counts as zero.

        A parameter that has no gradient on any process, such as a weight of a head that pre-training does not use, gets
        no gradient. The optimizer skips it, as in a run of one process.
        """
        if self.size == 1:
            return
        trained = [p for p in model.parameters() if p.requires_grad]
        found = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
        trained = [p for p, n in zip(trained, self.sum(found).tolist()) if n]
        for dtype in dict.fromkeys(p.dtype for p in trained):  # in the same order everywhere
            group = [p for p in trained if p.dtype == dtype]
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
            flat = self.sum(torch.cat([part.reshape(-1) for part in parts]))
            for parameter, part in zip(group, flat.split([p.numel() for p in group])):
                parameter.grad = part.view_as(parameter).clone()

    def share(self, model: nn.Module) -> None:
        """Copy the weights and buffers of the first process to all processes."""
        if self.size > 1:
            with self._answered():
                for tensor in (*model.parameters(), *model.buffers()):
                    dist.broadcast(tensor.data, 0)

    def gathered(self, text: str) -> list[str]:
        """Texts of all processes, by rank."""
        if self.size == 1:
            return [text]
        own = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(own)
        rows = torch.zeros(self.size, int(self.sum(lengths).max()), dtype=torch.uint8)
        rows[self.rank, : len(own)] = own
        return [bytes(row[:n].tolist()).decode() for row, n in zip(self.sum(rows), lengths.tolist())]

    def check_same(self, what: str, values: Mapping[str, Any]) -> None:
        """Check that all processes have the same values. Raises ConfigError on all of them if they do not."""
        texts = self.gathered(json.dumps(values, default=str))
        if len(set(texts)) == 1:
            return
        every = [json.loads(text) for text in texts]
        unlike = [key for key in dict.fromkeys(key for row in every for key in row) if _differs(every, key)]
        told = "; ".join(f"{key} is {_by_rank([row.get(key) for row in every])}" for key in unlike[:_NAMED])
        raise ConfigError(
            f"The {self.size} processes of this run were started with different {what}: {told}. Start all of them "
            "with the same command, the same data and the same version of matscale."
        )

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            with self._answered():
                dist.barrier()


class _InWorld(Protocol):
    world: World


Member = TypeVar("Member", bound=_InWorld)
P = ParamSpec("P")


def on_main(method: Callable[Concatenate[Member, P], None]) -> Callable[Concatenate[Member, P], None]:
    """Decorate a method so that it runs only on the main process of `self.world`."""

    @wraps(method)
    def done(self: Member, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.world.is_main:
            method(self, *args, **kwargs)

    return done


_NAMED = 4
"""Number of differences between processes that an error names."""


def _differs(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(row.get(key) != rows[0].get(key) for row in rows)


def _by_rank(values: Sequence[Any]) -> str:
    """List who has which value: `1 on process 0, 2 on processes 1, 3`."""
    ranks: dict[str, list[str]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(repr(value), []).append(str(rank))
    return ", ".join(f"{value} on process{'es' * (len(on) > 1)} {', '.join(on)}" for value, on in ranks.items())


_VARIABLES = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise ConfigError(f"{name} = {value!r} in the environment: expected a whole number, as torchrun sets it.")
    return int(value)


def _check_meeting_place(size: int) -> None:
    address, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    if not address or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"WORLD_SIZE = {size}, but MASTER_ADDR = {address!r} and MASTER_PORT = {port!r} do not say where the "
            "processes meet. Start them with torchrun, which sets all of these; for one process, unset WORLD_SIZE."
        )


def _refuse_copies() -> None:
    for variable, launcher in _TASKS.items():
        if _number(variable, 1) > 1:
            n = os.environ[variable]
            raise ConfigError(
                f"{launcher} has started {n} tasks, and each would train a copy of the same run. For one run on {n} "
                f"processes of this machine, start one task, with: torchrun --nproc-per-node {n} -m matscale train ... "
                "If each task trains a run of its own, in a folder of its own, set WORLD_SIZE=1."
            )
