"""Block of EquiformerV3: attention, and a feed-forward network whose nonlinearity is a product on the sphere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from matscale.plugin import sphere
from matscale.plugins.eqv3.attention import GraphAttention, add_scalars, gated, product
from matscale.plugins.eqv3.config import EqV3Config


class FeedForward(nn.Module):
    r"""Feed-forward network of the coefficients of an atom, F hidden channels,

        y', y''  = W₁ L₁ x                                             L₁, L₂: a linear map of channels for each degree
        x'       = L₂ (W₂ (σ(G x_{l=0}) (y' · y'')) + δ_l0 swiglu(S x_{l=0}))

    The published form applies W₁ and W₂ to the values at each point of the grid. Linear maps of channels commute with
    the transforms to the grid and back. They therefore act on the K coefficients here, which are fewer than the points.
    """

    def __init__(self, config: EqV3Config) -> None:
        super().__init__()
        lmax, channels, hidden = config.lmax, config.channels, config.ffn_hidden
        self.scalars = nn.Linear(channels, 2 * hidden)
        self.gates = nn.Linear(channels, hidden)
        self.expand = sphere.SO3Linear(lmax, channels, hidden)
        self.pair = nn.Linear(hidden, 2 * hidden, bias=False)
        self.mix = nn.Linear(hidden, hidden, bias=False)
        self.contract = sphere.SO3Linear(lmax, hidden, channels)
        with torch.no_grad():
            self.contract.weight[0] *= 0.5**0.5  # since products and scalars are added

    def forward(self, x: Tensor, grid: sphere.SphereGrid) -> Tensor:
        """Compute coefficients [n_atoms, K, C] from `x` [n_atoms, K, C] (K coefficients, C channels)."""
        scalars = x[:, 0]
        curved = product(self.pair(self.expand(x)), grid) * torch.sigmoid(self.gates(scalars))[:, None]
        update: Tensor = self.contract(add_scalars(self.mix(curved), gated(self.scalars(scalars))))
        return update


class Block(sphere.Block):
    """Block of the network, made of the parts of this file."""

    attention: GraphAttention
    feed_forward: FeedForward

    def __init__(self, config: EqV3Config) -> None:
        super().__init__()
        channels = config.channels
        self.attention_norm = sphere.make_norm("rms_norm_sh", config.lmax, channels)
        self.attention = GraphAttention(config, channels, "swiglu", config.attention_drop)
        self.feed_forward_norm = sphere.make_norm("rms_norm_sh", config.lmax, channels)
        self.feed_forward = FeedForward(config)
        self.drop = sphere.Drop(config.drop_path, 0.0)
