"""Parts of a block besides attention: norms of coefficients, feed-forward network on a grid, dropout."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from matscale.plugin import full_precision
from matscale.plugins.eqv2.attention import GraphAttention
from matscale.plugins.eqv2.config import EqV2Config
from matscale.plugins.eqv2.edges import Edges
from matscale.plugins.eqv2.so3 import SO3Linear, SphereGrid, degrees

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
    """Make the norm that `EqV2Config.norm` calls `kind`."""
    if kind == "layer_norm_sh":
        return ScalarsApartNorm(lmax, channels)
    return PerDegreeNorm(lmax, channels, common=kind == "rms_norm_sh")


class FeedForward(nn.Module):
    """Feed-forward network: an MLP at every point of a grid on each atom's sphere, and a separate one for scalars."""

    def __init__(self, config: EqV2Config, n_out: int) -> None:
        super().__init__()
        lmax, channels, hidden = config.lmax, config.channels, config.ffn_hidden
        self.scalars = nn.Sequential(nn.Linear(channels, hidden), nn.SiLU())
        self.expand = SO3Linear(lmax, channels, hidden)
        self.pointwise = nn.Sequential(
            nn.Linear(hidden, hidden, bias=False),
            nn.SiLU(),
            nn.Linear(hidden, hidden, bias=False),
            nn.SiLU(),
            nn.Linear(hidden, hidden, bias=False),
        )
        self.contract = SO3Linear(lmax, hidden, n_out)

    def forward(self, x: Tensor, grid: SphereGrid) -> Tensor:
        """Compute coefficients [n_atoms, K, n_out] from `x` [n_atoms, K, C] (K coefficients, C channels)."""
        curved = grid.coefficients(self.pointwise(grid.values(self.expand(x))))
        update: Tensor = self.contract(torch.cat([self.scalars(x[:, :1]), curved[:, 1:]], dim=1))
        return update


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


class Block(nn.Module):
    """Block of the network: x + attention(norm x), then x + feed-forward(norm x)."""

    def __init__(self, config: EqV2Config) -> None:
        super().__init__()
        channels = config.channels
        self.attention_norm = make_norm(config.norm, config.lmax, channels)
        self.attention = GraphAttention(config, channels, config.alpha_drop)
        self.feed_forward_norm = make_norm(config.norm, config.lmax, channels)
        self.feed_forward = FeedForward(config, channels)
        self.drop = Drop(config.drop_path, config.proj_drop)

    def forward(
        self, x: Tensor, edges: Edges, edge_grid: SphereGrid, atom_grid: SphereGrid, batch: Tensor, n_structures: int
    ) -> Tensor:
        """Update `x` [n_atoms, K, C], K coefficients with C channels for each atom."""
        x = x + self.drop(self.attention(self.attention_norm(x), edges, edge_grid), batch, n_structures)
        within: Tensor = self.drop(self.feed_forward(self.feed_forward_norm(x), atom_grid), batch, n_structures)
        return x + within
