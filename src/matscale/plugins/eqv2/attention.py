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

from matscale.plugin import full_precision
from matscale.plugins.eqv2.charts import Passage
from matscale.plugins.eqv2.config import EqV2Config
from matscale.plugins.eqv2.edges import Edges
from matscale.plugins.eqv2.so3 import SO3Linear, SphereGrid


class RadialNetwork(nn.Module):
    """Radial network: an MLP of the distance and the two elements of an edge, with element embeddings of its own."""

    def __init__(self, config: EqV2Config, n_out: int) -> None:
        super().__init__()
        width, rows = config.edge_channels, config.max_atomic_number + 1
        self.source, self.target = nn.Embedding(rows, width), nn.Embedding(rows, width)  # row 0 is no element
        self.net = nn.Sequential(
            nn.Linear(config.n_radial + 2 * width, width),
            nn.LayerNorm(width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.SiLU(),
            nn.Linear(width, n_out),
        )
        for table in (self.source, self.target):
            nn.init.uniform_(table.weight, -0.001, 0.001)

    def forward(self, edges: Edges) -> Tensor:
        """Compute radial features [n_edges, n_out] of the edges."""
        elements = (self.source(edges.source_element), self.target(edges.target_element))
        features: Tensor = self.net(torch.cat([edges.basis, *elements], dim=1))
        return features


class EdgeDegree(nn.Module):
    """Edge-degree embedding: coefficients m = 0 in the frames of edges, rotated back and summed for each atom."""

    def __init__(self, config: EqV2Config) -> None:
        super().__init__()
        self.n_degrees, self.mean_degree = config.lmax + 1, config.mean_degree
        self.radial = RadialNetwork(config, self.n_degrees * config.channels)

    def forward(self, edges: Edges) -> Tensor:
        """Sum over the edges of each atom; returns [n_atoms, K, C], K coefficients with C channels."""
        weights = self.radial(edges).unflatten(1, (self.n_degrees, -1))  # [n_edges, lmax+1, C]
        if edges.envelope is not None:
            weights = weights * edges.envelope[:, None, None]
        turned = edges.turn_out_of_frame(weights)  # the coefficients m = 0 come first
        return edges.sum_on_targets(turned) / self.mean_degree


class SO2Convolution(nn.Module):
    """SO(2) convolution: the general linear map of channels and degrees that commutes with rotations about an edge.

    For m > 0 it is a complex product: y₊ = W_r x₊ − W_i x₋, y₋ = W_r x₋ + W_i x₊.
    """

    def __init__(self, lmax: int, mmax: int, n_in: int, n_out: int, n_extra: int = 0) -> None:
        """Set up the convolution; for m = 0 it has `n_extra` additional scalar outputs."""
        super().__init__()
        self.n_extra, self.n_in, self.n_out = n_extra, n_in, n_out
        self.n_degrees = [lmax + 1 - m for m in range(mmax + 1)]
        """Number of degrees l that have an order m."""
        self.m0 = nn.Linear(self.n_degrees[0] * n_in, n_extra + self.n_degrees[0] * n_out)
        self.m = nn.ModuleList(nn.Linear(n * n_in, 2 * n * n_out, bias=False) for n in self.n_degrees[1:])
        with torch.no_grad():
            for linear in self.m:
                assert isinstance(linear, nn.Linear)
                linear.weight.mul_(0.5**0.5)  # since two products are added

    @property
    def n_weights(self) -> int:
        """Number of radial weights of an edge: for each |m|, one per degree and input channel."""
        return sum(self.n_degrees) * self.n_in

    def forward(self, x: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve `x` [n_edges, K_r, n_in], K_r coefficients per edge, after multiplication by `weights`, if given.

        `weights` are [n_edges, n_weights]. Returns coefficients [n_edges, K_r, n_out] and additional scalars [n_edges,
        n_extra].
        """
        sizes = [self.n_degrees[0], *(2 * n for n in self.n_degrees[1:])]
        parts = x.split(sizes, dim=1)
        factors = [None] * len(sizes) if weights is None else weights.split([n * self.n_in for n in self.n_degrees], 1)
        first = parts[0].flatten(1)
        first = self.m0(first if factors[0] is None else first * factors[0])
        out = [first[:, self.n_extra :].unflatten(1, (self.n_degrees[0], self.n_out))]
        for part, factor, linear, n in zip(parts[1:], factors[1:], self.m, self.n_degrees[1:]):
            pair = part.unflatten(1, (2, n)).flatten(2)  # [n_edges, ±m, n·n_in]
            product = linear(pair if factor is None else pair * factor[:, None])  # [n_edges, ±m, (r, i)·n·n_out]
            (plus_r, plus_i), (minus_r, minus_i) = (p.chunk(2, dim=-1) for p in product.unbind(1))
            turned = torch.stack([plus_r - minus_i, minus_r + plus_i], dim=1)
            out.append(turned.reshape(-1, 2 * n, self.n_out))
        return torch.cat(out, dim=1), first[:, : self.n_extra]


@full_precision
def separable_s2(x: Tensor, gates: Tensor, grid: SphereGrid, passage: Passage | None = None) -> Tensor:
    """Apply SiLU on a grid of the sphere to functions with coefficients `x` [n, K_r, C] (C channels).

    The coefficient l = 0 of the result is SiLU of `gates` [n, C]. For the edges of `passage`, the result is a weighted
    mean over the frames of both charts (module `charts`).
    """
    silu = nn.functional.silu
    curved = grid.coefficients(silu(grid.values(x)))
    if passage is not None:
        turned = passage.turned(x.index_select(0, passage.edges))
        other = passage.turned_back(grid.coefficients(silu(grid.values(turned))))
        change = passage.share[:, None, None] * (other - curved.index_select(0, passage.edges))
        curved = curved.index_add(0, passage.edges, change)
    return torch.cat([silu(gates)[:, None], curved[:, 1:]], dim=1)


class EdgeFunction(nn.Module):
    """Module that computes values and attention features of each edge from its two atoms, on the reference path."""

    def __init__(self, config: EqV2Config) -> None:
        super().__init__()
        lmax, mmax, hidden = config.lmax, config.mmax, config.attention_hidden
        self.n_features = config.n_heads * config.alpha_channels
        self.conv1 = SO2Convolution(lmax, mmax, 2 * config.channels, hidden, n_extra=self.n_features + hidden)
        self.conv2 = SO2Convolution(lmax, mmax, hidden, config.n_heads * config.value_channels)
        self.radial = RadialNetwork(config, self.conv1.n_weights)

    def forward(self, x: Tensor, edges: Edges, grid: SphereGrid) -> tuple[Tensor, Tensor]:
        """Compute values and attention features of the edges from coefficients `x` [n_atoms, K, C] of the atoms.

        Values are [n_edges, K_r, heads·V] in the frames of the edges: K_r of K coefficients, V channels per head.
        Features are [n_edges, heads·A].
        """
        pair = torch.cat([x.index_select(0, edges.source), x.index_select(0, edges.target)], dim=2)
        message = edges.turn_into_frame(pair)  # [n_edges, K_r, 2C]
        hidden, extra = self.conv1(message, self.radial(edges))
        features, gates = extra[:, : self.n_features], extra[:, self.n_features :]
        values, _ = self.conv2(separable_s2(hidden, gates, grid, edges.passage))
        return values, features


def smooth_leaky(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2 without its kink: 0.2 x + 0.8 SiLU(x)."""
    return 0.2 * x + 0.8 * nn.functional.silu(x)


class GraphAttention(nn.Module):
    """Graph attention: computes new coefficients of an atom from those of its neighbours."""

    def __init__(self, config: EqV2Config, n_out: int, alpha_drop: float) -> None:
        super().__init__()
        self.heads, alpha = config.n_heads, config.alpha_channels
        self.edge_function = EdgeFunction(config)
        self.alpha_norm = nn.LayerNorm(alpha)
        self.alpha_dot = nn.Parameter(torch.empty(self.heads, alpha).uniform_(-(alpha**-0.5), alpha**-0.5))
        self.alpha_drop = nn.Dropout(alpha_drop)
        self.project = SO3Linear(config.lmax, config.n_heads * config.value_channels, n_out)

    def forward(self, x: Tensor, edges: Edges, grid: SphereGrid) -> Tensor:
        """Compute coefficients [n_atoms, K, n_out] from `x` [n_atoms, K, C] (K coefficients, C channels)."""
        values, features = self.edge_function(x, edges, grid)
        alpha = self.attention(features, edges)  # [n_edges, heads]
        weighted = values.unflatten(2, (self.heads, -1)) * self.alpha_drop(alpha)[:, None, :, None]
        update: Tensor = self.project(edges.sum_on_targets(edges.turn_out_of_frame(weighted.flatten(2))))
        return update

    @full_precision
    def attention(self, features: Tensor, edges: Edges) -> Tensor:
        """Attention weights [n_edges, heads] from `features` [n_edges, heads·A], A per head, by `Edges.softmax`."""
        curved = smooth_leaky(self.alpha_norm(features.unflatten(1, (self.heads, -1))))
        return edges.softmax((curved * self.alpha_dot).sum(-1))
