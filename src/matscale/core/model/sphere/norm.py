"""Norms of coefficients, which commute with rotations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from matscale.core.model.sphere.coefficients import degrees
from matscale.core.precision import full_precision

EPSILON = 1e-5
"""Number that is added to mean squares before the root is taken."""


class ScalarsApartNorm(nn.Module):
    """Norm `layer_norm_sh`: a LayerNorm for the scalars, and one common scale for all l > 0.

    Every degree l > 0 has equal weight in that scale.
    """

    weight_of: Tensor
    balance: Tensor

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        self.scalars = nn.LayerNorm(channels, eps=EPSILON)
        self.weight = nn.Parameter(torch.ones(lmax, channels))
        degree = np.array(degrees(lmax))[1:]
        self.register_buffer("weight_of", torch.from_numpy(degree - 1), persistent=False)
        self.register_buffer("balance", torch.from_numpy(1.0 / ((2 * degree + 1) * lmax)), persistent=False)

    @full_precision
    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` [n, K, C], K coefficients with C channels for each of n atoms."""
        scalars, rest = x[:, :1], x[:, 1:]
        power = torch.einsum("nkc,k->nc", rest.square(), self.balance.to(x.dtype)).mean(-1)
        scale = (power + EPSILON).rsqrt()[:, None, None]
        return torch.cat([self.scalars(scalars), rest * scale * self.weight.index_select(0, self.weight_of)], dim=1)


class PerDegreeNorm(nn.Module):
    """Norms `layer_norm`, which has a scale for each degree, and `rms_norm_sh`, which has one scale for all degrees.

    Both first subtract the mean over channels from the scalars.
    """

    degree: Tensor
    balance: Tensor

    def __init__(self, lmax: int, channels: int, common: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(lmax + 1, channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        degree = np.array(degrees(lmax))
        same = np.equal.outer(np.arange(lmax + 1), degree) / (2 * degree + 1)  # [lmax+1, K] averages over m
        balance = same.mean(0, keepdims=True).repeat(lmax + 1, 0) if common else same
        self.register_buffer("degree", torch.from_numpy(degree), persistent=False)
        self.register_buffer("balance", torch.from_numpy(balance), persistent=False)

    @full_precision
    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` [n, K, C], K coefficients with C channels for each of n atoms."""
        x = torch.cat([x[:, :1] - x[:, :1].mean(-1, keepdim=True), x[:, 1:]], dim=1)
        power = torch.einsum("nkc,lk->nlc", x.square(), self.balance.to(x.dtype)).mean(-1)  # [n, lmax+1]
        scale = (power + EPSILON).rsqrt()[:, :, None] * self.weight
        x = x * scale.index_select(1, self.degree)
        return torch.cat([x[:, :1] + self.bias, x[:, 1:]], dim=1)


def make_norm(kind: str, lmax: int, channels: int) -> nn.Module:
    """Make the norm of this `kind`: `layer_norm_sh`, `layer_norm` or `rms_norm_sh`."""
    if kind == "layer_norm_sh":
        return ScalarsApartNorm(lmax, channels)
    return PerDegreeNorm(lmax, channels, common=kind == "rms_norm_sh")
