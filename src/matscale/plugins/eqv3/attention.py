r"""Graph attention in the frames of the edges.

    z_e     = R_e (x_j ⊕ x_i)                     turned onto the axis, orders |m| ≤ mmax kept     [n_edges, K_r, 2C]
    a, p, g, h = SO2(w(e)_l ∘ z_e)                attention features, scalars, gates, message      h: [n_edges, K_r, 2H]
    v_e     = SO2(swiglu(h, p, g))                values                                           [n_edges, K_r, H·V]
    α_e     = u_e · softmax_{e -> i} (u · leaky(LN(a)))    per head; u_e is the envelope           [n_edges, heads]
    x'_i    = P Σ_{e -> i} R_e^T (α_e v_e)                                                         [n_atoms, K, C']

An atom has K coefficients with C channels each, of which an edge keeps K_r; heads have V channels each. w are radial
networks of distance and elements, one weight for each degree l and channel. The activation is the product of the two
halves (h', h'') of a message, as functions on the sphere, times gates, and a SwiGLU of scalars,

    swiglu(h, p, g)_lm  = σ(g) (h' · h'')_lm + δ_l0 silu(p') p''

(SwiGLU-S²). Only the product is computed on the grid. It is a polynomial of degree 2, so that it is exact on a grid of
sufficient resolution: a model commutes with rotations up to rounding errors. EquiformerV3, arXiv:2604.09130.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from matscale.plugin import full_precision, sphere
from matscale.plugins.eqv3.config import EqV3Config


def product(x: Tensor, grid: sphere.SphereGrid) -> Tensor:
    """Multiply two functions on the sphere, the first and second half of the channels of `x` [n, K or K_r, 2C].

    Returns coefficients [n, K or K_r, C] of their product.
    """
    first, second = grid.values(x).chunk(2, dim=2)
    return grid.coefficients(first * second)


@full_precision
def swiglu_s2(x: Tensor, scalars: Tensor, gates: Tensor, grid: sphere.SphereGrid) -> Tensor:
    """Activation of messages `x` [n_edges, K_r, 2H] by `scalars` [n_edges, 2H] and `gates` [n_edges, H].

    Returns [n_edges, K_r, H].
    """
    curved = product(x, grid) * torch.sigmoid(gates)[:, None]
    return add_scalars(curved, gated(scalars))


def gated(scalars: Tensor) -> Tensor:
    """SwiGLU of scalars [n, 2C]: silu of the first half times the second half, [n, C]."""
    first, second = scalars.chunk(2, dim=1)
    return nn.functional.silu(first) * second


def add_scalars(x: Tensor, scalars: Tensor) -> Tensor:
    """Add `scalars` [n, C] to the coefficients l = 0 of `x` [n, K or K_r, C]."""
    return torch.cat([x[:, :1] + scalars[:, None], x[:, 1:]], dim=1)


def radial_network(config: EqV3Config, n_out: int) -> sphere.RadialNetwork:
    """Make a radial network with element embeddings of its own."""
    rows, derives = config.max_atomic_number + 1, config.forces == "gradient"  # row 0 is no element
    return sphere.RadialNetwork(config.n_radial, config.edge_channels, n_out, rows, exact_norms=derives)


class GraphAttention(nn.Module):
    """Graph attention: computes new coefficients of an atom from those of its neighbours."""

    def __init__(self, config: EqV3Config, n_out: int, activation: Literal["swiglu", "gate"], drop: float) -> None:
        """Set up the layer; the activation `gate`, which heads use, multiplies messages by a gate for each degree."""
        super().__init__()
        shape, hidden, channels = (config.lmax, config.mmax), config.attention_hidden, config.channels
        self.heads, alpha, self.epsilon = config.n_heads, config.alpha_channels, config.attention_epsilon
        self.n_degrees, self.mmax = config.lmax + 1, config.mmax
        width, n_scalars = (2 * hidden, 3 * hidden) if activation == "swiglu" else (hidden, config.lmax * hidden)
        self.n_features, values = self.heads * alpha, self.heads * config.value_channels
        self.radial = radial_network(config, self.n_degrees * 2 * channels)
        self.conv1 = sphere.SO2Convolution(*shape, 2 * channels, width, n_extra=self.n_features + n_scalars)
        self.gate = sphere.Gate(*shape) if activation == "gate" else None
        self.conv2 = sphere.SO2Convolution(*shape, hidden, values)
        with torch.no_grad():
            self.conv2.m0.weight[:hidden] *= 0.5**0.5
        self.alpha_norm = nn.LayerNorm(alpha)
        self.alpha_dot = nn.Parameter(torch.empty(self.heads, alpha).uniform_(-(alpha**-0.5), alpha**-0.5))
        self.drop = nn.Dropout(drop)
        self.project = sphere.SO3Linear(config.lmax, values, n_out)

    def forward(self, x: Tensor, edges: sphere.Edges, grid: sphere.SphereGrid | None) -> Tensor:
        """Compute coefficients [n_atoms, K, n_out] from `x` [n_atoms, K, C] (K coefficients, C channels)."""
        pair = torch.cat([x.index_select(0, edges.source), x.index_select(0, edges.target)], dim=2)
        hidden, extra = self.conv1(edges.turn_into_frame(pair), self.radial_weights(edges))
        features, scalars = extra[:, : self.n_features], extra[:, self.n_features :]
        values, _ = self.conv2(self.activate(hidden, scalars, grid))
        weighted = values.unflatten(2, (self.heads, -1)) * self.drop(self.attention(features, edges))[:, None, :, None]
        update: Tensor = self.project(edges.sum_on_targets(edges.turn_out_of_frame(weighted.flatten(2))))
        return update

    def radial_weights(self, edges: sphere.Edges) -> Tensor:
        """Weights of an edge for the convolution, one for each |m|, l and channel; here they are the same for all m.

        A weight that depends on the degree only commutes with the rotation. It can therefore act after the rotation, on
        fewer coefficients.
        """
        weights: Tensor = self.radial(edges).unflatten(1, (self.n_degrees, -1))  # [n_edges, lmax+1, 2C]
        return torch.cat([weights[:, m:].flatten(1) for m in range(self.mmax + 1)], dim=1)

    def activate(self, hidden: Tensor, scalars: Tensor, grid: sphere.SphereGrid | None) -> Tensor:
        """Activation of hidden messages, [n_edges, K_r, H] from [n_edges, K_r, 2H], or from [n_edges, K_r, H]."""
        if self.gate is not None:
            opened: Tensor = self.gate(hidden, scalars)
            return opened
        assert grid is not None
        n = hidden.shape[2]
        return swiglu_s2(hidden, scalars[:, :n], scalars[:, n:], grid)

    @full_precision
    def attention(self, features: Tensor, edges: sphere.Edges) -> Tensor:
        """Attention weights [n_edges, heads] from `features` [n_edges, heads·A], A per head, by `Edges.softmax`."""
        curved = sphere.smooth_leaky(self.alpha_norm(features.unflatten(1, (self.heads, -1))))
        return edges.softmax((curved * self.alpha_dot).sum(-1), self.epsilon)
