"""Full precision for the parts of a model that need it: geometry, norms, softmax, long sums.

With `compute.precision` bf16 or fp16, torch's autocast rounds the factors of matrix products to half precision; with
tf32, a GPU rounds the factors to 10 bits. This is accurate enough for products of features with weights. It is not
accurate enough for products with geometric constants, whose rounding breaks symmetries, nor for squares and
exponentials, which exceed the range of fp16.

The core computes geometry (edge vectors, strain, rotation) without matrix products: `times_matrix` sums products of
single numbers, which are never rounded to lower precision, forward or backward. A plugin should use a function with the
decorator `full_precision` to multiply by matrices that depend on positions.
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
    """Context that disables autocast on the device where it is enabled. No effect if it is off."""
    return torch.autocast("cuda" if torch.is_autocast_enabled("cuda") else "cpu", enabled=False)


def times_matrix(vectors: Tensor, matrices: Tensor) -> Tensor:
    """Multiply vectors by matrices, vector @ matrix, without torch's matrix product.

    The shapes are [..., 3] for `vectors` and the result, and [..., 3, 3] for `matrices`. Neither autocast nor tf32
    reduces the precision. The result can be differentiated any number of times.

    >>> times_matrix(torch.tensor([1.0, 2.0, 3.0]), 2.0 * torch.eye(3)).tolist()
    [2.0, 4.0, 6.0]
    """
    x, y, z = vectors.unsqueeze(-1).unbind(-2)
    a, b, c = matrices.unbind(-2)
    return x * a + y * b + z * c


def full_precision(function: Function) -> Function:
    """Decorate a function or method, so that it runs outside autocast, in float32 or float64.

    Arguments in half precision are converted to float32. Matrix products are not rounded to tf32 either, except in code
    that torch.compile has compiled. Without autocast and tf32, nothing changes.
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
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in _HALF else value


def refuse_half(name: str) -> None:
    """Raises ConfigError inside an autocast region, that is, in half precision.

    Call this in the model of the architecture `name` if it has layers of another library that would be wrong in half
    precision, without an error.
    """
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise ConfigError(
            f"{name} does not compute in half precision: its layers multiply by constants of geometry, whose rounding "
            "breaks the symmetries. Set compute.precision to fp32, tf32 or fp64."
        )
