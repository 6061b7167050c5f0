"""FLOPs of operators that torch's counter does not know: products of vectors, and kernels of plugins."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch

Formula = Callable[..., int]
"""Function that returns the FLOPs of an operator from its arguments (a torch.Size for each tensor) and `out_shape`."""

_KERNELS: dict[Any, Formula] = {}


def flops_of_kernel(operator: Any) -> Callable[[Formula], Formula]:
    """Decorate a function that gives the FLOPs of `operator`, an entry of `torch.ops`.

    The function is called with the operator's arguments, in which shapes replace tensors, and with `out_shape`. A
    multiply-add is two FLOPs; recomputation in a backward kernel does not count. A kernel without such a function
    counts as zero FLOPs, with a warning. An example:

        @flops_of_kernel(torch.ops.mylib.pair_product)
        def _(a_shape, b_shape, *args, out_shape=None, **kwargs):
            return 2 * a_shape[0] * a_shape[1] * b_shape[1]
    """

    def register(formula: Formula) -> Formula:
        _KERNELS[operator] = formula
        return formula

    return register


def kernels() -> dict[Any, Formula]:
    """Registered functions, in the form of `custom_mapping` of `FlopCounterMode`."""
    return dict(_KERNELS)


@flops_of_kernel(torch.ops.aten.addmv)
def _add_matrix_vector(
    bias: torch.Size, matrix: torch.Size, vector: torch.Size, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    return 2 * prod(matrix)


@flops_of_kernel(torch.ops.aten.mv)
@flops_of_kernel(torch.ops.aten.dot)
@flops_of_kernel(torch.ops.aten.vdot)
def _times_vector(a: torch.Size, vector: torch.Size, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * prod(a)


@flops_of_kernel(torch.ops.aten.addbmm)
def _add_batched(
    bias: torch.Size, a: torch.Size, b: torch.Size, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    return 2 * prod(a) * b[-1]
