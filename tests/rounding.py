"""tf32 without a GPU: what enters a matrix product is rounded to 10 bits, where float32 products are allowed to be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_FACTORS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "addmm": 1, "addbmm": 1, "baddbmm": 1}
"""Product -> which argument is the first of its two factors."""


class _Rounding(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = _FACTORS.get(func._schema.name.split("::")[-1].rstrip("_"))
        if first is not None and torch.get_float32_matmul_precision() != "highest":
            args = [_rounded(x) if k in (first, first + 1) else x for k, x in enumerate(args)]
        return func(*args, **(kwargs or {}))


def _rounded(x: torch.Tensor) -> torch.Tensor:
    """float32 numbers to the nearest with 10 bits after the leading one."""
    if x.dtype != torch.float32:
        return x
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


@contextmanager
def tf32() -> Iterator[None]:
    """A region, forward and backward, in which products are rounded as `compute.precision = "tf32"` lets a GPU do."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with _Rounding():
            yield
    finally:
        torch.set_float32_matmul_precision(before)
