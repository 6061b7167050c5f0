r"""Interactions: five updates of edges and atoms, each a sum over neighbours of products with a basis.

    triplet      x_ca = B Σ_b (ρ_ca · Y(∠cab)) ⊗ P(m_ba ∘ R e_ba)                        edges from edges
    atom-edge    the same with atoms b in place of edges: P(h_b ∘ R e_ba)                 edges from atoms
    edge-atom    x_a = B Σ_c Σ_b (ρ_ca · Y(∠cab)) ⊗ P(m_ba ∘ R e_ba)                     atoms from edges
    quadruplet   x_ca = B Σ_b Σ_d (ρ_ca · Y(∠cab) Y(θ_cabd)) ⊗ (P(m_db ∘ R e_db) ∘ C κ_dba)   edges from edges
    atom-atom    x_a = B Σ_b ρ_ab ⊗ P(h_b)                                                atoms from atoms

e are projected Gaussians of a distance, ρ_ca the same as matrices [I, L] (`radial_matrices`), κ the basis of a distance
and an angle; R, P, C, B are linear maps that each interaction has. Sums over angles: `angles`, `dihedrals`.

GemNet-T: arXiv:2106.08903, eq. 7 to 11 and its appendix on efficiency; GemNet-OC: arXiv:2204.02782, section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from matscale.plugin import LinearRows
from matscale.plugins.gemnet.angles import Angles, neighbor_products
from matscale.plugins.gemnet.dihedrals import Dihedrals
from matscale.plugins.gemnet.layers import SILU, SQRT_HALF, Dense, Scale, orthogonal


class BothWays(nn.Module):
    """Update of each edge c → a, computed from its own sum and from the sum of its reverse a → c."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.same, self.reverse = Dense(n_in, n_out), Dense(n_in, n_out)

    def forward(self, x: Tensor, swap: LinearRows) -> Tensor:
        """Forward pass: [n_edges, n_in] -> [n_edges, n_out]"""
        same, reverse = (functional.silu(functional.linear(x, each.weight)) for each in (self.same, self.reverse))
        return (same + swap(reverse)) * (SILU * SQRT_HALF)


class Narrow(nn.Module):
    """Down-projection of features of edges or atoms to the few channels of a sum: P(σ(D x) ∘ R e)."""

    def __init__(self, n_in: int, n_radial: int, n_out: int) -> None:
        super().__init__()
        self.dense = Dense(n_in, n_in)
        self.radial = Dense(n_radial, n_in, activate=False)
        self.scale = Scale()
        self.project = Dense(n_in, n_out)

    def forward(self, x: Tensor, radial: Tensor, rows: LinearRows | None = None) -> Tensor:
        """Forward pass: `x` [n, n_in] (or m `rows` of it), `radial` [m, n_radial] -> [m, n_out]"""
        x = self.dense(x)
        x = x if rows is None else rows(x)
        narrow: Tensor = self.project(self.scale.product(x, self.radial, radial))
        return narrow


def bilinear(weights: nn.Module, radial: Tensor, sums: Tensor) -> Tensor:
    """Multiply `radial` ρ [n, I, L] by `sums` [n, L, C], and map the product from I·C to n_out by `weights`."""
    product: Tensor = weights((radial @ sums).flatten(1))
    return product


class AngleInteraction(nn.Module):
    """Layers that interactions over angles share; `up` maps the sums over angles to the channels that are updated."""

    up_by: type[nn.Module]

    def __init__(self, n_in: int, n_radial: int, n_circular: int, n_sum: int, n_summed: int, n_out: int) -> None:
        super().__init__()
        self.narrow = Narrow(n_in, n_radial, n_sum)
        self.bilinear = Dense(n_circular * n_sum, n_summed, activate=False)
        self.scale = Scale()
        self.up = self.up_by(n_summed, n_out)


class TripletInteraction(AngleInteraction):
    """Triplet interaction: update edges from edges, or from atoms."""

    up_by = BothWays

    def forward(
        self,
        x: Tensor,
        radial: Tensor,
        circular: Tensor,
        angles: Angles,
        swap: LinearRows,
        rows: LinearRows | None = None,
    ) -> Tensor:
        """Forward pass: `circular` [n_edges, I, L] -> [n_edges, n_out]"""
        x = self.narrow(x, radial, rows)
        summed = bilinear(self.bilinear, circular, angles.sums(x))
        update: Tensor = self.up(self.scale(summed, x), swap)
        return update


class EdgeAtomInteraction(AngleInteraction):
    """Edge-atom interaction: update atoms from edges, with one geometric matrix per edge, shared by all layers."""

    up_by = Dense

    def forward(self, m: Tensor, radial: Tensor, around: Tensor, degree: Tensor, rank: Tensor) -> Tensor:
        """Forward pass: `around` [n_edges, I] from `Angles.contracted`, `degree` [n_atoms] in the order of edges ->
        [n_atoms, n_out]
        """
        x = self.narrow(m, radial)
        summed = self.bilinear(neighbor_products(around, x, degree).flatten(1)).index_select(0, rank)
        update: Tensor = self.up(self.scale(summed, x))
        return update


class QuadrupletInteraction(nn.Module):
    """Quadruplet interaction: update edges from edges two bonds away."""

    def __init__(
        self, n_edge: int, n_radial: int, n_circular: int, n_spherical: int, n_sum: int, n_summed: int
    ) -> None:
        super().__init__()
        self.narrow = Narrow(n_edge, n_radial, n_sum)
        self.circular = Dense(n_circular, n_sum, activate=False)
        self.circular_scale = Scale()
        self.bilinear = Dense(n_spherical * n_sum, n_summed, activate=False)
        self.scale = Scale()
        self.up = BothWays(n_summed, n_edge)

    def forward(
        self, m: Tensor, radial: Tensor, circular: Tensor, spherical: Tensor, dihedrals: Dihedrals, swap: LinearRows
    ) -> Tensor:
        """Forward pass: `circular` [n_in, I] of the in-triplets, `spherical` [n_edges, S, L²] -> [n_edges, n_edge]"""
        x = dihedrals.in_edges(self.narrow(m, radial))
        x = self.circular_scale(x * self.circular(circular), x)
        summed = bilinear(self.bilinear, spherical, dihedrals.sums(x))
        update: Tensor = self.up(self.scale(summed, x), swap)
        return update


class PairInteraction(nn.Module):
    """Atom-atom interaction: update atoms from atoms."""

    def __init__(self, n_atom: int, n_radial: int, n_sum: int, n_summed: int) -> None:
        super().__init__()
        self.project = Dense(n_atom, n_sum)
        self.bilinear = Dense(n_radial * n_sum, n_summed, activate=False)
        self.scale = Scale()
        self.up = Dense(n_summed, n_atom)

    def forward(self, h: Tensor, radial: Tensor, sources: LinearRows, degree: Tensor, rank: Tensor) -> Tensor:
        """Forward pass: `radial` [n_pairs, I] in the order of the pairs -> [n_atoms, n_atom]"""
        x = sources(self.project(h))
        summed = self.bilinear(neighbor_products(radial, x, degree).flatten(1)).index_select(0, rank)
        update: Tensor = self.up(self.scale(summed, x))
        return update


def radial_matrices(basis: Tensor, weight: Tensor) -> Tensor:
    """Matrices of a basis: Gaussians [n, R] and weights [R, I, L] -> ρ [n, I, L]"""
    return torch.unflatten(basis @ weight.flatten(1), 1, tuple(weight.shape[1:]))


def circular_of(matrices: Tensor, angles: Tensor, rows: Tensor) -> Tensor:
    """Circular basis: ρ [n, I, L], of which `rows` [m] are taken, and Y [m, L] -> κ [m, I]"""
    return (matrices.index_select(0, rows) @ angles[:, :, None]).squeeze(2)


def empty_weight(n_radial: int, n_embedding: int, n_angular: int) -> Tensor:
    """Make weights of `radial_matrices`, orthogonal over all R·L functions of the basis."""
    flat = orthogonal(torch.empty(n_embedding, n_radial * n_angular))
    return flat.view(n_embedding, n_radial, n_angular).permute(1, 0, 2).contiguous()
