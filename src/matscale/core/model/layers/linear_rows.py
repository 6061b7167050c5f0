"""Gathers and sums of rows as one linear map, whose derivatives of all orders are maps of the same kind.

    y_k = Σ_{entries (k, r)} x_r          k: row of the output, r: row of the input

A gather has one entry for each k, a sum over segments one for each r.

`index_add` on a CPU works row by row. Here entries are sorted once per batch, by output and by input, so that the map
and its transpose (its gradient) are one call of `embedding_bag` each. This is three to four times as fast, and sums are
always made in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from matscale.core.model.reference_path import is_reference_path_wanted


def is_plain_wanted() -> bool:
    """Whether plain operations are needed: under a compiler, torch.func, forward-mode AD or a FLOP counter."""
    if torch.compiler.is_compiling() or is_reference_path_wanted() or torch._C._are_functorch_transforms_active():
        return True
    return torch.autograd.forward_ad._current_level >= 0


class LinearRows:
    """Linear map from [n_in, C] to [n_out, C]: entry e adds input row `taken`[e] to output row `out`[e]."""

    def __init__(self, out: Tensor, taken: Tensor, n_out: int, n_in: int) -> None:
        self.out, self.taken, self.n_out, self.n_in = out, taken, n_out, n_in
        self._there: tuple[Tensor, Tensor] | None = None
        self._back: tuple[Tensor, Tensor] | None = None

    @classmethod
    def gathered(cls, taken: Tensor, n_in: int) -> LinearRows:
        """Map that gathers rows: y[k] = x[taken[k]]."""
        return cls(torch.arange(len(taken), device=taken.device), taken, len(taken), n_in)

    @classmethod
    def summed(cls, out: Tensor, n_out: int) -> LinearRows:
        """Map that sums rows: y[k] = sum of the x[r] with out[r] = k."""
        return cls(out, torch.arange(len(out), device=out.device), n_out, len(out))

    def transposed(self) -> LinearRows:
        """Transposed map, from outputs to inputs: the sum for a gather, the gather for a sum."""
        rows = LinearRows(self.taken, self.out, self.n_in, self.n_out)
        rows._there, rows._back = self._back, self._there
        return rows

    def __call__(self, x: Tensor) -> Tensor:
        if is_plain_wanted() or not len(self.out):
            return x.new_zeros(self.n_out, x.shape[1]).index_add(0, self.out, x.index_select(0, self.taken))
        if self._there is None or self._back is None:
            self._there = _bags(self.out, self.taken, self.n_out)
            self._back = _bags(self.taken, self.out, self.n_in)
        y: Tensor = _Bags.apply(x, *self._there, *self._back)
        return y


def _bags(by: Tensor, taken: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Sort `taken` by `by`; return it, and the position [n] at which each value 0, ..., n − 1 of `by` starts."""
    ordered, order = by.sort(stable=True)
    starts = torch.searchsorted(ordered, torch.arange(n, device=by.device))
    return taken.index_select(0, order), starts


class _Bags(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, taken: Tensor, starts: Tensor, back: Tensor, back_starts: Tensor) -> Tensor:
        ctx.save_for_backward(taken, starts, back, back_starts)
        return torch.embedding_bag(x.contiguous(), taken, starts, mode=0)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        taken, starts, back, back_starts = ctx.saved_tensors
        return _Bags.apply(gradients[0], back, back_starts, taken, starts), None, None, None, None
