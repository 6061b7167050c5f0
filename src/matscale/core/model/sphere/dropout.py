"""Dropout that keeps a model equivariant."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Drop(nn.Module):
    """Dropout in training, of a block's whole contribution to some structures, or of whole channels of some atoms."""

    def __init__(self, path: float, channel: float) -> None:
        super().__init__()
        self.path, self.channel = path, channel

    def forward(self, x: Tensor, batch: Tensor, n_structures: int) -> Tensor:
        """Drop channels and structures of `x` [n_atoms, K, C] at random, and scale up the rest to preserve the mean."""
        if self.training and self.channel:
            kept = torch.rand(x.shape[0], 1, x.shape[2], device=x.device) >= self.channel
            x = x * (kept / (1 - self.channel)).to(x.dtype)
        if self.training and self.path:
            kept = torch.rand(n_structures, device=x.device) >= self.path
            x = x * (kept / (1 - self.path)).to(x.dtype)[batch][:, None, None]
        return x
