"""Distributed training: several processes train one model on different parts of each step's structures.

DistributedDataParallel sums gradients in buckets while the backward pass still runs. This is exact for uneven parts,
since every process divides by the counts of the whole step, and for forces by derivative, since both derivatives are
taken of one graph. Parameters that no process used keep no gradient, so that the optimizer skips them as in a run of
one process.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from matscale.core.errors import ConfigError, PeerLost
from matscale.core.train.processes.environment import place_of_process
from matscale.core.train.processes.sharding import is_sharded, sharded

_LOST = re.compile(r"gloo|NCCL|ProcessGroup|TCPStore|[Cc]onnection (closed|reset|refused)")
"""Pattern of errors of a backward pass that come from the sum over processes."""


def _summed(bucket: Any) -> torch.futures.Future[Tensor]:
    """Sum a bucket of gradients over processes; DistributedDataParallel would take the mean.

    Each process has divided its part by the counts of the whole step.
    """
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    summed: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return summed


class World:
    """Group of the processes of a run; an ordinary run has one process."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, meeting: str = "env://") -> None:
        """Set up a process of a group of `size`; `meeting` is the URL at which torch.distributed connects them."""
        self.rank, self.size, self.local_rank, self.meeting = rank, size, local_rank, meeting

    @classmethod
    def from_environment(cls) -> World:
        """Make the group from the environment variables; see `place_of_process`."""
        return cls(*place_of_process())

    @classmethod
    def of_inference(cls) -> World:
        """World of a process that uses a model.

        Several such processes may share a machine and its GPUs, but not a run.
        """
        local = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
        return cls(local_rank=int(local) if local.isdecimal() else 0)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    def of_main(self, value: float) -> float:
        """Return `value` on the main process and zero on all others, so that a sum over processes counts it once."""
        return value if self.is_main else 0.0

    def check_backend(self, device: torch.device) -> None:
        """Raises ConfigError if torch was built without the library that sums tensors of several processes."""
        name, is_built = (
            ("NCCL", dist.is_nccl_available()) if device.type == "cuda" else ("gloo", dist.is_gloo_available())
        )
        if self.size > 1 and not is_built:
            raise ConfigError(
                f"{self.size} processes train on {device.type}, but torch {torch.__version__} was built without "
                f"{name}, which sums their gradients. Install a torch with it, train with one process, or use another "
                "--device."
            )

    @contextmanager
    def connected(self, device: torch.device, timeout: float) -> Iterator[None]:
        """Context with the process group of a run; for one process it does nothing.

        Tensors on GPUs are summed by nccl, numbers and tensors on CPUs by gloo.

        Within the context, an error of torch.distributed (a process that ended, or did not answer for `timeout`
        seconds) becomes PeerLost. Raises ConfigError if the environment does not say where the processes meet.
        """
        self.timeout = timeout
        if self.size == 1 or dist.is_initialized():
            yield
            return
        if self.meeting == "env://":
            _check_meeting_place(self.size)
        # Without its device, each process would open a context on the first GPU, too.
        backend, own = ("cpu:gloo,cuda:nccl", device) if device.type == "cuda" else ("gloo", None)
        limit = timedelta(seconds=timeout)
        with self._answered():
            store, _, _ = next(rendezvous(self.meeting, self.rank, self.size, timeout=limit))
            store = PrefixStore(_attempt(), store)
            dist.init_process_group(
                backend, store=store, rank=self.rank, world_size=self.size, timeout=limit, device_id=own
            )
        try:
            with warnings.catch_warnings():
                # Of matrices with one row, which are stored alike either way.
                warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
                yield
        finally:
            dist.destroy_process_group()

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Context for operations that wait for other processes; their errors become PeerLost."""
        try:
            yield
        except RuntimeError as error:  # of torch.distributed and gloo, which have many kinds
            raise self._lost(error) from None

    def _lost(self, error: RuntimeError) -> PeerLost:
        return PeerLost(
            f"Process {self.rank} of {self.size}: another process of the run ended, or did not answer for "
            f"{self.timeout:g} s ({str(error).splitlines()[0]}). Look for its error above. The run goes on "
            "from its last checkpoint with --resume, also with another number of processes."
        )

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over processes, in place."""
        if self.size > 1:
            with self._answered():
                dist.all_reduce(tensor)
        return tensor

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sum each value over processes, in float64 and without waiting for a GPU."""
        if self.size == 1:
            return dict(values)
        total = self.sum(torch.tensor(list(values.values()), dtype=torch.float64))
        return dict(zip(values, total.tolist()))

    def replicated(self, module: nn.Module, divided: bool = False) -> nn.Module:
        """Let all processes have the weights of the first one, and sum gradients of `module` in its backward passes.

        With `divided`, each process keeps only its share of weights and gradients (`sharding`), and the weights must be
        equal already. With one process, `module` itself is returned.
        """
        if self.size == 1:
            return module
        with self._answered():
            if divided:
                return sharded(module, self.size)
            replica = DistributedDataParallel(module, find_unused_parameters=True, gradient_as_bucket_view=True)
        replica.broadcast_buffers = False  # buffers are equal from the start, and constant
        replica.register_comm_hook(None, lambda _, bucket: _summed(bucket))  # it checks annotations
        return replica

    @contextmanager
    def exchanging(self, replica: nn.Module, is_last: bool) -> Iterator[None]:
        """Context for forward and backward pass of a micro-batch; in the last one of a step, gradients are summed.

        An error of the sum becomes PeerLost, others stay as they are.
        """
        if is_sharded(replica):
            replica.set_requires_gradient_sync(is_last)
            replica.set_reshard_after_backward(is_last)  # processes may have different numbers of micro-batches
            with self.summing():
                yield
        elif not isinstance(replica, DistributedDataParallel):
            yield
        elif not is_last:
            with replica.no_sync():
                yield
        else:
            with self.summing():
                yield

    @contextmanager
    def summing(self) -> Iterator[None]:
        """Context for work on sums of several processes, in which their errors become PeerLost.

        Other errors stay as they are. On a GPU, the error of a sum is raised where its result is first read.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not (isinstance(error, dist.DistError) or _LOST.search(str(error))):
                raise
            raise self._lost(error) from None

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
        self.sum(torch.zeros(1))


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


def _attempt() -> str:
    """Prefix of the keys by which processes find one another, which differs from start to start of a run.

    The agent of torchrun and `--devices` keeps one store for all starts, so that restarted processes would read the
    addresses of dead ones. With several agents, each counts its own starts, and the prefix cannot depend on them.
    """
    is_counted = os.environ.get("GROUP_WORLD_SIZE") == "1"
    return f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') if is_counted else '0'}"


def _by_rank(values: Sequence[Any]) -> str:
    """List who has which value: `1 on process 0, 2 on processes 1, 3`."""
    ranks: dict[str, list[str]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(repr(value), []).append(str(rank))
    return ", ".join(f"{value} on process{'es' * (len(on) > 1)} {', '.join(on)}" for value, on in ranks.items())


def _check_meeting_place(size: int) -> None:
    address, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    if not address or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"WORLD_SIZE = {size}, but MASTER_ADDR = {address!r} and MASTER_PORT = {port!r} do not say where the "
            "processes meet. Start them with torchrun, which sets all of these; for one process, unset WORLD_SIZE."
        )
