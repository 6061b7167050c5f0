r"""Functions of a distance: radial bases, cutoff envelopes, and a smooth activation.

    gaussian   g_k(d) = exp(−(d − μ_k)² / 2Δ²),   μ_k = kΔ,  Δ = cutoff / (K − 1)
    cosine     f(d) = (cos(πd/c) + 1) / 2                                    C¹ at c
    polynomial f(x) = 1 − (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) − p(p+1)/2 x^(p+2),   x = d/c,   C² at c

Sources: SchNet, arXiv:1706.08566 (Gaussians, shifted softplus); Behler & Parrinello, doi:10.1103/PhysRevLett.98.146401
(cosine); DimeNet, arXiv:2003.03123 (polynomial).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from matscale.core.model.layers.linear_rows import is_plain_wanted


class GaussianBasis(nn.Module):
    """Basis of Gaussians of a distance, evenly spaced from 0 to the cutoff; by default they are as wide as the spacing.

    >>> [round(x, 3) for x in GaussianBasis(cutoff=4.0, n_radial=5)(torch.tensor(1.0)).tolist()]
    [0.607, 1.0, 0.607, 0.135, 0.011]
    """

    centers: Tensor

    def __init__(self, cutoff: float, n_radial: int, width: float = 1.0) -> None:
        """Set up the basis: `cutoff` in Å, `width` in units of the spacing.

        For a single Gaussian, the spacing is the cutoff.
        """
        super().__init__()
        spacing = cutoff / max(1, n_radial - 1)
        self.coefficient = -0.5 / (width * spacing) ** 2
        # It follows from the configuration, so it is not saved.
        self.register_buffer("centers", torch.arange(n_radial, dtype=torch.float64) * spacing, persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluate the basis at distances [n_edges, ...] Å; returns [n_edges, ..., n_radial]."""
        # Most Gaussians underflow, which makes torch's exp on CPUs ten times slower, but not exp2.
        exponent = self.coefficient / math.log(2.0)
        return torch.exp2(exponent * (distance[..., None] - self.centers.to(distance.dtype)).square())


def cosine_cutoff(distance: Tensor, cutoff: float) -> Tensor:
    """Cosine envelope: 1 at distance 0, 0 with zero slope at the cutoff and beyond. Distances [Å] of any shape.

    >>> [round(x, 3) for x in cosine_cutoff(torch.tensor([0.0, 2.5, 5.0, 6.0]), 5.0).tolist()]
    [1.0, 0.5, 0.0, 0.0]
    """
    inside = 0.5 * (torch.cos(distance * (math.pi / cutoff)) + 1.0)
    return torch.where(distance < cutoff, inside, torch.zeros_like(distance))


def polynomial_cutoff(distance: Tensor, cutoff: float, power: int = 5) -> Tensor:
    """Polynomial envelope: 1 at distance 0, 0 with zero slope and curvature at the cutoff and beyond.

    The distances [Å] may have any shape.

    >>> [round(x, 3) for x in polynomial_cutoff(torch.tensor([0.0, 2.5, 5.0, 6.0]), 5.0).tolist()]
    [1.0, 0.773, 0.0, 0.0]
    """
    x = distance / cutoff
    p = power
    # Horner's form of the polynomial: fewer roundings near x = 1, where the terms cancel.
    tail = (p + 1) * (p + 2) / 2 - x * (p * (p + 2) - x * (p * (p + 1) / 2))
    return torch.where(x < 1.0, 1.0 - x**p * tail, torch.zeros_like(x))


class ShiftedSoftplus(nn.Module):
    """Activation ln(1 + e^x) − ln 2: smooth to all orders, zero at zero.

    >>> [round(x, 3) for x in ShiftedSoftplus()(torch.tensor([-1.0, 0.0, 1.0])).tolist()]
    [-0.38, 0.0, 0.62]
    """

    def forward(self, x: Tensor) -> Tensor:
        if is_plain_wanted():
            return functional.softplus(x) - math.log(2.0)
        y: Tensor = _ShiftedSoftplus.apply(x)
        return y


class _ShiftedSoftplus(Function):
    """Shifted softplus with an explicit derivative.

    The derivative is a sigmoid, so that the second derivative takes two operations instead of seven.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return functional.softplus(x).sub_(math.log(2.0))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * torch.sigmoid(x)
