"""Products with the tables of a grid: for few channels, one wide product replaces many small ones.

A table [P, K] times each of n matrices [K, H] is a batched product. With few channels H, it has as little as a tenth of
the speed of one wide product [P, K] × [K, n·H]: 2 GFLOP/s for H = 1 and 22 for H = 12, against 34 to 43 for the wide
product (one core with AVX2). The wide product needs a copy of the coefficients in the order [K, n, H]. From
`FOLD_BELOW` channels on, both are equally fast.
"""

from __future__ import annotations

import torch
from torch import Tensor

FOLD_BELOW = 16
"""Channels below which the matrices are folded into one."""


def folded(x: Tensor) -> Tensor:
    """Fold `x` [n, K, H] to [K, n·H] if the channels are few."""
    return x.transpose(0, 1).reshape(x.shape[1], -1) if x.shape[2] < FOLD_BELOW else x


def product(table: Tensor, x: Tensor, room: Tensor | None = None) -> Tensor:
    """Multiply `table` [P, K] by the result `x` of `folded`; returns [P, n·H] or [n, P, H], in `room` if given."""
    shape = (table.shape[0], x.shape[1]) if x.dim() == 2 else (x.shape[0], table.shape[0], x.shape[2])
    size = shape[0] * shape[1] * (shape[2] if len(shape) == 3 else 1)
    out = None if room is None else room.view(-1)[:size].view(shape)
    return torch.mm(table, x, out=out) if x.dim() == 2 else torch.bmm(_each(table, x), x, out=out)


def product_into(table: Tensor, x: Tensor, out: Tensor) -> None:
    """Multiply `table` [K, P] by the result `x` of `product`; written to `out` [n, K, H]."""
    if x.dim() == 2:
        out.transpose(0, 1).copy_(torch.mm(table, x).view(table.shape[0], out.shape[0], out.shape[2]))
    elif out.is_contiguous():
        torch.bmm(_each(table, x), x, out=out)
    else:
        out.copy_(torch.bmm(_each(table, x), x))


def _each(table: Tensor, x: Tensor) -> Tensor:
    """Repeat the table for each matrix of `x`, without copies."""
    return table.expand(x.shape[0], *table.shape)
