"""Full precision for parts of a model that need it: geometry, norms, softmax, long sums.

`compute.precision` bf16 and fp16 are torch's autocast: matrix products take half-precision copies of their factors;
with tf32 a GPU rounds the factors to 10 bits. This is accurate enough for products of features with weights. It is not
for products with geometric constants, whose rounding breaks symmetries, nor for squares and exponentials, which exceed
the range of fp16.

The core's geometry (edge vectors, strain, rotation) has no matrix products: `times_matrix` sums products of single
numbers, which are never rounded, forward or backward. A plugin should multiply by matrices that depend on positions in
a `full_precision` function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from matscale.core.errors import ConfigError

Function = TypeVar("Function", bound=Callable[..., Any])
_HALF = (torch.float16, torch.bfloat16)


def outside_autocast() -> AbstractContextManager[object]:
    """Context that disables autocast for the device on which it is enabled; no effect if autocast is off."""
    return torch.autocast("cuda" if torch.is_autocast_enabled("cuda") else "cpu", enabled=False)


def times_matrix(vectors: Tensor, matrices: Tensor) -> Tensor:
    """Multiply rows by matrices without a matrix product: `vectors` [..., 3], `matrices` [..., 3, 3] -> [..., 3].

    Neither autocast nor tf32 rounds it. Differentiable any number of times.

    >>> times_matrix(torch.tensor([1.0, 2.0, 3.0]), 2.0 * torch.eye(3)).tolist()
    [2.0, 4.0, 6.0]
    """
    x, y, z = vectors.unsqueeze(-1).unbind(-2)
    a, b, c = matrices.unbind(-2)
    return x * a + y * b + z * c


def full_precision(function: Function) -> Function:
    """Decorate a function or method to run outside autocast, with float32 in place of half-precision arguments.

    Its matrix products are not rounded to tf32 either, except in code that torch.compile has compiled. Without autocast
    and tf32 nothing changes, and arguments keep their types.
    """

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling() and torch.get_float32_matmul_precision() != "highest":
            with _unrounded():
                return wrapped(*args, **kwargs)
        if not (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")):
            return function(*args, **kwargs)
        with outside_autocast():
            return function(*map(_widened, args), **{name: _widened(value) for name, value in kwargs.items()})

    return wrapped  # type: ignore[return-value]


@contextmanager
def _unrounded() -> Iterator[None]:
    """Context in which products of float32 numbers are not rounded."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in _HALF else value


def refuse_half(name: str) -> None:
    """Refuse half precision: raises ConfigError inside an autocast region. `name` is the architecture.

    Call this in a model with layers of another library that would silently be wrong in half precision.
    """
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise ConfigError(
            f"{name} does not compute in half precision: its layers multiply by constants of geometry, whose rounding "
            "breaks the symmetries. Set compute.precision to fp32, tf32 or fp64."
        )
