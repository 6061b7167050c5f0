"""State of training divided among processes by FSDP2: weights, gradients, moments and averages.

The whole model is one unit of `fully_shard`: its weights are gathered before the first micro-batch of a step, and its
gradients are summed and divided after the last. Units within the model do not work with forces by derivative: in torch
2.13, their hooks mistake the derivative within the forward pass for the end of the backward pass. They free the
weights, and the second derivative raises "setStorage: ... out of bounds for storage of size 0".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from matscale.core.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def sharded(module: nn.Module, size: int) -> nn.Module:
    """Divide the parameters of `module` among `size` processes, in place. Raises ConfigError if that is impossible."""
    from torch.distributed.device_mesh import init_device_mesh  # start-up: torch.distributed.tensor takes a second
    from torch.distributed.fsdp import FSDPModule, fully_shard  # start-up: the same

    for name, parameter in module.named_parameters():
        if parameter.ndim == 0:
            raise ConfigError(
                f'compute.sharding = "state": the parameter {name} is a scalar, which FSDP2 does not divide. Leave '
                "compute.sharding out, or give it the shape [1]."
            )
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise ConfigError(
            f'compute.sharding = "state" needs torch 2.13 or newer, and this is torch {torch.__version__}.'
        )
    mesh = init_device_mesh(next(module.parameters()).device.type, (size,))
    replica = fully_shard(module, mesh=mesh, reshard_after_forward=False)
    replica.set_gradient_divide_factor(1.0)  # each process has divided its part by the counts of the whole step
    replica.set_reduce_scatter_unused_params(True)  # processes may use different parameters
    return module


def is_sharded(module: nn.Module) -> TypeGuard[FSDPModule]:
    """Whether a module is the result of `sharded`."""
    return hasattr(module, "set_requires_gradient_sync")


def _is_divided(tensor: Tensor) -> TypeGuard[DTensor]:
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Whole tensor, gathered if it is divided among processes; all of these have to call this."""
    return tensor.full_tensor() if _is_divided(tensor) else tensor


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """Divide a whole tensor, which every process has, as the tensor `like` is divided; move it to the same device."""
    moved = tensor.to(like.device)
    if not _is_divided(like):
        return moved
    from torch.distributed.tensor import distribute_tensor  # start-up: see above

    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)


@contextmanager
def gathered(replica: nn.Module) -> Iterator[None]:
    """Context in which every process has the whole weights of a replica, for predictions."""
    if not is_sharded(replica):
        yield
        return
    replica.unshard()
    try:
        yield
    finally:
        replica.reshard()
