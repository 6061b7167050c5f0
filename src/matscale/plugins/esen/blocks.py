r"""Block of eSEN: messages along edges, and a feed-forward network on atoms.

Messages (`EdgeWise`), in the frames of the edges,

    z_e   = R_e (x_j ⊕ x_i)                       turned onto the axis, orders |m| ≤ mmax kept     [n_edges, K_r, 2C]
    g, h  = SO2(z_e ∘ w(e))                       gates, hidden message                            [n_edges, K_r, H]
    x'_i  = Σ_{e -> i} u(d_e) R_e^T SO2(act(h, g))                                                 [n_atoms, K, C]

without attention and without a mean: the message of each neighbour is multiplied by the envelope u only. w are radial
networks of distance and elements. The activation of the published models multiplies each degree l > 0 by the sigmoid of
a scalar, which is exactly equivariant; `s2` is SiLU on a grid for l > 0 instead.

The feed-forward network of the published models (`Spectral`) has the same form on atoms,

    x'    = L₂ gate(L₁ x, silu(W x_{l=0}))        L₁, L₂: a linear map of channels for each degree  [n_atoms, K, H]

or is an MLP of the values at each point of a grid (`Pointwise`). eSEN, arXiv:2502.12147.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from matscale.plugin import sphere
from matscale.plugins.esen.config import ESENConfig


def radial_network(config: ESENConfig, n_out: int) -> sphere.RadialNetwork:
    """Make a radial network of Gaussians and of the elements' embeddings that all networks share."""
    derives = config.forces == "gradient"
    return sphere.RadialNetwork(config.n_edge_features, config.edge_channels, n_out, exact_norms=derives)


class EdgeWise(nn.Module):
    """Messages of the neighbours of an atom, summed."""

    def __init__(self, config: ESENConfig) -> None:
        super().__init__()
        shape, hidden = (config.lmax, config.mmax), config.hidden
        is_gated = config.activation == "gate"
        self.gate = sphere.Gate(*shape) if is_gated else None
        n_extra = config.lmax * hidden if is_gated else hidden
        self.conv1 = sphere.SO2Convolution(*shape, 2 * config.channels, hidden, n_extra)
        self.radial = radial_network(config, self.conv1.n_weights)
        self.conv2 = sphere.SO2Convolution(*shape, hidden, config.channels)

    def forward(self, x: Tensor, edges: sphere.Edges, grid: sphere.SphereGrid | None) -> Tensor:
        """Compute coefficients [n_atoms, K, C] from `x` [n_atoms, K, C] (K coefficients, C channels)."""
        assert edges.envelope is not None
        pair = torch.cat([x.index_select(0, edges.source), x.index_select(0, edges.target)], dim=2)
        hidden, extra = self.conv1(edges.turn_into_frame(pair), self.radial(edges))
        if self.gate is not None:
            curved = self.gate(hidden, extra)
        else:
            assert grid is not None
            curved = sphere.separable_s2(hidden, extra, grid, edges.passage)
        message, _ = self.conv2(curved)
        return edges.sum_on_targets(edges.turn_out_of_frame(message * edges.envelope[:, None, None]))


class Spectral(nn.Module):
    """Feed-forward network of coefficients: two linear maps of each degree, with gates between them."""

    def __init__(self, config: ESENConfig) -> None:
        super().__init__()
        lmax, channels, hidden = config.lmax, config.channels, config.hidden
        self.gates = nn.Sequential(nn.Linear(channels, lmax * hidden), nn.SiLU())
        self.expand = sphere.SO3Linear(lmax, channels, hidden)
        self.gate = sphere.Gate(lmax)
        self.contract = sphere.SO3Linear(lmax, hidden, channels)

    def forward(self, x: Tensor, grid: sphere.SphereGrid | None) -> Tensor:
        """Compute coefficients [n_atoms, K, C] from `x` [n_atoms, K, C]; no grid is needed."""
        update: Tensor = self.contract(self.gate(self.expand(x), self.gates(x[:, 0])))
        return update


class Pointwise(nn.Module):
    """Feed-forward network on a grid: an MLP at every point of each atom's sphere."""

    def __init__(self, config: ESENConfig) -> None:
        super().__init__()
        channels, hidden = config.channels, config.hidden
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.SiLU(),
            nn.Linear(hidden, hidden, bias=False),
            nn.SiLU(),
            nn.Linear(hidden, channels, bias=False),
        )

    def forward(self, x: Tensor, grid: sphere.SphereGrid | None) -> Tensor:
        """Compute coefficients [n_atoms, K, C] from `x` [n_atoms, K, C] (K coefficients, C channels)."""
        assert grid is not None
        return grid.coefficients(self.mlp(grid.values(x)))


class Block(nn.Module):
    """Block of the network: x + messages(norm x), then x + feed-forward(norm x)."""

    def __init__(self, config: ESENConfig) -> None:
        super().__init__()
        self.edge_norm = sphere.make_norm(config.norm, config.lmax, config.channels)
        self.edge_wise = EdgeWise(config)
        self.atom_norm = sphere.make_norm(config.norm, config.lmax, config.channels)
        self.atom_wise = (Spectral if config.feed_forward == "spectral" else Pointwise)(config)

    def forward(
        self,
        x: Tensor,
        edges: sphere.Edges,
        system: Tensor | None,
        edge_grid: sphere.SphereGrid | None,
        atom_grid: sphere.SphereGrid | None,
    ) -> Tensor:
        """Update `x` [n_atoms, K, C], K coefficients with C channels for each atom; `system` is [1, K, C]."""
        normalised = self.edge_norm(x)
        x = x + self.edge_wise(normalised if system is None else normalised + system, edges, edge_grid)
        within: Tensor = self.atom_wise(self.atom_norm(x), atom_grid)
        return x + within
