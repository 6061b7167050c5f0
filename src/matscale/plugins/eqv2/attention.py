r"""Graph attention in the frames of the edges.

    m_e   = R_e (x_j ⊕ x_i)                       turned onto the axis, orders |m| ≤ mmax kept     [n_edges, K_r, 2C]
    a, s, h = SO2(m_e ∘ w(e))                     attention features, gates, hidden message
    v_e   = SO2(S2(h, s))                         values                                           [n_edges, K_r, H·V]
    α_e   = softmax_{e -> i} (u · leaky(LN(a)))   per head                                         [n_edges, H]
    x'_i  = P Σ_{e -> i} R_e^T (α_e v_e)                                                           [n_atoms, K, C']

An atom has K coefficients with C channels each, of which an edge keeps K_r; H heads have V channels each. w are radial
networks of distance and elements; SO2 mixes degrees and channels of equal |m|, which is the condition of equivariance
in the frame of an edge (arXiv:2302.03655); S2 is SiLU on a grid for l > 0, gated scalars for l = 0. EquiformerV2,
arXiv:2306.12059.

`EdgeFunction`, which maps coefficients of atoms to values and features of edges, takes nearly all the time. It is a
separate module, so that a faster function with the same parameters can replace it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from matscale.plugin import full_precision, sphere
from matscale.plugins.eqv2.config import EqV2Config


def radial_network(config: EqV2Config, n_out: int) -> sphere.RadialNetwork:
    """Make a radial network with element embeddings of its own."""
    return sphere.RadialNetwork(config.n_radial, config.edge_channels, n_out, config.max_atomic_number + 1)


class EdgeFunction(nn.Module):
    """Module that computes values and attention features of each edge from its two atoms, on the reference path."""

    def __init__(self, config: EqV2Config) -> None:
        super().__init__()
        lmax, mmax, hidden = config.lmax, config.mmax, config.attention_hidden
        self.n_features = config.n_heads * config.alpha_channels
        self.conv1 = sphere.SO2Convolution(lmax, mmax, 2 * config.channels, hidden, n_extra=self.n_features + hidden)
        self.conv2 = sphere.SO2Convolution(lmax, mmax, hidden, config.n_heads * config.value_channels)
        self.radial = radial_network(config, self.conv1.n_weights)

    def forward(self, x: Tensor, edges: sphere.Edges, grid: sphere.SphereGrid) -> tuple[Tensor, Tensor]:
        """Compute values and attention features of the edges from coefficients `x` [n_atoms, K, C] of the atoms.

        Values are [n_edges, K_r, heads·V] in the frames of the edges: K_r of K coefficients, V channels per head.
        Features are [n_edges, heads·A].
        """
        pair = torch.cat([x.index_select(0, edges.source), x.index_select(0, edges.target)], dim=2)
        message = edges.turn_into_frame(pair)  # [n_edges, K_r, 2C]
        hidden, extra = self.conv1(message, self.radial(edges))
        features, gates = extra[:, : self.n_features], extra[:, self.n_features :]
        values, _ = self.conv2(sphere.separable_s2(hidden, gates, grid, edges.passage))
        return values, features


class GraphAttention(nn.Module):
    """Graph attention: computes new coefficients of an atom from those of its neighbours."""

    def __init__(self, config: EqV2Config, n_out: int, alpha_drop: float) -> None:
        super().__init__()
        self.heads, alpha = config.n_heads, config.alpha_channels
        self.edge_function = EdgeFunction(config)
        self.alpha_norm = nn.LayerNorm(alpha)
        self.alpha_dot = nn.Parameter(torch.empty(self.heads, alpha).uniform_(-(alpha**-0.5), alpha**-0.5))
        self.alpha_drop = nn.Dropout(alpha_drop)
        self.project = sphere.SO3Linear(config.lmax, config.n_heads * config.value_channels, n_out)

    def forward(self, x: Tensor, edges: sphere.Edges, grid: sphere.SphereGrid) -> Tensor:
        """Compute coefficients [n_atoms, K, n_out] from `x` [n_atoms, K, C] (K coefficients, C channels)."""
        values, features = self.edge_function(x, edges, grid)
        alpha = self.attention(features, edges)  # [n_edges, heads]
        weighted = values.unflatten(2, (self.heads, -1)) * self.alpha_drop(alpha)[:, None, :, None]
        update: Tensor = self.project(edges.sum_on_targets(edges.turn_out_of_frame(weighted.flatten(2))))
        return update

    @full_precision
    def attention(self, features: Tensor, edges: sphere.Edges) -> Tensor:
        """Attention weights [n_edges, heads] from `features` [n_edges, heads·A], A per head, by `Edges.softmax`."""
        curved = sphere.smooth_leaky(self.alpha_norm(features.unflatten(1, (self.heads, -1))))
        return edges.softmax((curved * self.alpha_dot).sum(-1))
