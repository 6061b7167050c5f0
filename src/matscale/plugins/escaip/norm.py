r"""Root-mean-square norm over channels, with its gradient in closed form.

    y = n ∘ w,   n = x / √(mean x² + ε)
    dx = (g ∘ w − n mean(g ∘ n ∘ w)) / √(mean x² + ε),   dw = Σ_rows g ∘ n

Written with torch operations, each norm would take five passes over the slots of all atoms, and its gradient a dozen
more. Zhang & Sennrich, arXiv:1910.07467.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from matscale.plugin import full_precision, is_plain_wanted


class RMSNorm(nn.Module):
    """Root-mean-square norm: x / rms(x), times a weight for each channel."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_channels))

    @full_precision
    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, of any shape, over its last dimension."""
        if is_plain_wanted():
            return x * _inverse_rms(x) * self.weight
        y: Tensor = _Norm.apply(x, self.weight)
        return y


def _inverse_rms(x: Tensor) -> Tensor:
    return (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).rsqrt()


class _Norm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return (x * _inverse_rms(x)).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of `x` and `weight`, by differentiable operations if a second derivative follows.

        Otherwise they are computed in fewer passes over the data.
        """
        (x, weight), g = ctx.saved_tensors, gradients[0]
        inverse = _inverse_rms(x)
        n = x * inverse
        gn = g * n
        along = (gn @ weight / len(weight))[..., None]
        of_weight = gn.flatten(0, -2).sum(0)
        if torch.is_grad_enabled():
            return (g * weight - n * along) * inverse, of_weight
        return (g * weight).addcmul_(n, along, value=-1).mul_(inverse), of_weight
