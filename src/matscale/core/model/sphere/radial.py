"""Radial networks, and the embedding of the surroundings of an atom that they produce."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from matscale.core.model.sphere.edges import Edges
from matscale.core.precision import full_precision


def start_small(*tables: nn.Embedding) -> None:
    """Initialise tables of elements in radial networks with numbers that are small compared to the basis."""
    for table in tables:
        nn.init.uniform_(table.weight, -0.001, 0.001)


def with_elements(edges: Edges, source: nn.Embedding, target: nn.Embedding) -> Tensor:
    """Append the rows of the elements of both atoms to the basis of each edge: [n_edges, n_basis + 2 width]."""
    return torch.cat([edges.basis, source(edges.source_element), target(edges.target_element)], dim=1)


class ExactLayerNorm(nn.LayerNorm):
    """LayerNorm that is never computed in half precision."""

    @full_precision
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


class RadialNetwork(nn.Module):
    """Radial network: an MLP of the distance and the two elements of an edge."""

    def __init__(
        self, n_basis: int, width: int, n_out: int, n_elements: int | None = None, *, exact_norms: bool = False
    ) -> None:
        """Set up the network for a basis of `n_basis` functions, with hidden layers of `width`.

        With `n_elements`, the network has its own tables for the two elements of an edge, with a row for each atomic
        number below `n_elements`; row 0 is not an element. Without `n_elements`, the model has appended features of the
        elements to the basis. With `exact_norms`, norms are not computed in half precision: for forces by derivative,
        the second derivative of a norm exceeds its range.
        """
        super().__init__()
        self.source = nn.Embedding(n_elements, width) if n_elements else None
        self.target = nn.Embedding(n_elements, width) if n_elements else None
        norm = ExactLayerNorm if exact_norms else nn.LayerNorm
        self.net = nn.Sequential(
            nn.Linear(n_basis + (2 * width if n_elements else 0), width),
            norm(width),
            nn.SiLU(),
            nn.Linear(width, width),
            norm(width),
            nn.SiLU(),
            nn.Linear(width, n_out),
        )
        if self.source is not None and self.target is not None:
            start_small(self.source, self.target)

    def forward(self, edges: Edges) -> Tensor:
        """Compute radial features [n_edges, n_out] of the edges."""
        basis = edges.basis
        if self.source is not None and self.target is not None:
            basis = with_elements(edges, self.source, self.target)
        features: Tensor = self.net(basis)
        return features


class EdgeDegree(nn.Module):
    """Edge-degree embedding: coefficients m = 0 in the frames of edges, rotated back and summed for each atom."""

    def __init__(self, lmax: int, radial: RadialNetwork, mean_degree: float) -> None:
        """Set up the embedding from the `radial` network of its (lmax+1)·C weights; sums are over `mean_degree`."""
        super().__init__()
        self.n_degrees, self.mean_degree, self.radial = lmax + 1, mean_degree, radial

    def forward(self, edges: Edges) -> Tensor:
        """Sum over the edges of each atom; returns [n_atoms, K, C], K coefficients with C channels."""
        weights = self.radial(edges).unflatten(1, (self.n_degrees, -1))  # [n_edges, lmax+1, C]
        if edges.envelope is not None:
            weights = weights * edges.envelope[:, None, None]
        turned = edges.turn_out_of_frame(weights)  # the coefficients m = 0 come first
        return edges.sum_on_targets(turned) / self.mean_degree
