"""Parts of a block besides attention: norms of coefficients, feed-forward network on a grid, dropout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from matscale.plugin import sphere
from matscale.plugins.eqv2.attention import GraphAttention
from matscale.plugins.eqv2.config import EqV2Config


class FeedForward(nn.Module):
    """Feed-forward network: an MLP at every point of a grid on each atom's sphere, and a separate one for scalars."""

    def __init__(self, config: EqV2Config, n_out: int) -> None:
        super().__init__()
        lmax, channels, hidden = config.lmax, config.channels, config.ffn_hidden
        self.scalars = nn.Sequential(nn.Linear(channels, hidden), nn.SiLU())
        self.expand = sphere.SO3Linear(lmax, channels, hidden)
        self.pointwise = nn.Sequential(
            nn.Linear(hidden, hidden, bias=False),
            nn.SiLU(),
            nn.Linear(hidden, hidden, bias=False),
            nn.SiLU(),
            nn.Linear(hidden, hidden, bias=False),
        )
        self.contract = sphere.SO3Linear(lmax, hidden, n_out)

    def forward(self, x: Tensor, grid: sphere.SphereGrid) -> Tensor:
        """Compute coefficients [n_atoms, K, n_out] from `x` [n_atoms, K, C] (K coefficients, C channels)."""
        curved = grid.coefficients(self.pointwise(grid.values(self.expand(x))))
        update: Tensor = self.contract(torch.cat([self.scalars(x[:, :1]), curved[:, 1:]], dim=1))
        return update


class Block(sphere.Block):
    """Block of the network, made of the parts of this file."""

    attention: GraphAttention
    feed_forward: FeedForward

    def __init__(self, config: EqV2Config) -> None:
        super().__init__()
        channels = config.channels
        self.attention_norm = sphere.make_norm(config.norm, config.lmax, channels)
        self.attention = GraphAttention(config, channels, config.alpha_drop)
        self.feed_forward_norm = sphere.make_norm(config.norm, config.lmax, channels)
        self.feed_forward = FeedForward(config, channels)
        self.drop = sphere.Drop(config.drop_path, config.proj_drop)
