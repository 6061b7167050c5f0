"""Several processes that train one model, started by torchrun: each has its own batches, all have one gradient.

Gradients are summed in one flat buffer after the backward pass, by hand: exact for uneven batches (every process
divides by the counts of the whole global batch), and indifferent to double backward and to parameters that a batch
does not reach, which DistributedDataParallel's hooks are not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn


class World:
    """The processes of this run; one of them in an ordinary run."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank

    @classmethod
    def from_environment(cls) -> World:
        """By the variables that torchrun sets."""
        environment = os.environ
        rank, size = int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1"))
        return cls(rank, size, int(environment.get("LOCAL_RANK", "0")))

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    @contextmanager
    def connected(self, device: torch.device) -> Iterator[None]:
        """Process group for the time of a run (nccl on GPUs, gloo on CPUs); nothing to do for one process."""
        if self.size == 1 or dist.is_initialized():
            yield
            return
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=self.rank, world_size=self.size)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sums(self, values: Mapping[str, float], device: torch.device) -> dict[str, float]:
        """Sum of each value over processes, in float64."""
        if self.size == 1:
            return dict(values)
        total = self.sum(torch.tensor(list(values.values()), dtype=torch.float64, device=device))
        return dict(zip(values, total.tolist()))

    def sum_gradients(self, model: nn.Module) -> None:
        """Sum the gradients of all processes; a parameter without one on some of them counts as zero there.

        One that has none on any, such as those of heads that pre-training does not run, is left without, as a single
        process leaves it: the optimizer passes over it.
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
        """Give every process the weights and buffers of the first."""
        if self.size > 1:
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor.data, 0)

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier()
