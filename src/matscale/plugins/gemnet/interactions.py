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
        """Compute the update [n_edges, n_out] of all edges from sums `x` [n_edges, n_in]."""
        same, reverse = (functional.silu(functional.linear(x, each.weight)) for each in (self.same, self.reverse))
        return (same + swap(reverse)) * (SILU * SQRT_HALF)


class Narrow(nn.Module):
    """Down-projection of features x of edges or atoms to the few channels of a sum: P(σ(D x) ∘ R e).

    D, R and P are linear maps, e is the radial basis.
    """

    def __init__(self, n_in: int, n_radial: int, n_out: int) -> None:
        super().__init__()
        self.dense = Dense(n_in, n_in)
        self.radial = Dense(n_radial, n_in, activate=False)
        self.scale = Scale()
        self.project = Dense(n_in, n_out)

    def forward(self, x: Tensor, radial: Tensor, rows: LinearRows | None = None) -> Tensor:
        """Project `x` [n, n_in], or m `rows` of it, with the radial basis `radial` [m, n_radial].

        Returns [m, n_out].
        """
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
        """Compute the update [n_edges, n_out] of edges; `circular` [n_edges, I, L] is the circular basis."""
        x = self.narrow(x, radial, rows)
        summed = bilinear(self.bilinear, circular, angles.sums(x))
        update: Tensor = self.up(self.scale(summed, x), swap)
        return update


class EdgeAtomInteraction(AngleInteraction):
    """Edge-atom interaction: update atoms from edges, with one geometric matrix per edge, shared by all layers."""

    up_by = Dense

    def forward(self, m: Tensor, radial: Tensor, around: Tensor, degree: Tensor, rank: Tensor) -> Tensor:
        """Compute the update [n_atoms, n_out] of atoms.

        `around` [n_edges, I] comes from `Angles.contracted`. `degree` [n_atoms] is the number of edges of each atom,
        with the atoms in the order of their edges; `rank` [n_atoms] restores the order of the batch.
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
        """Compute the update [n_edges, n_edge] of edges.

        `circular` [n_in, I] is the circular basis of the in-triplets, `spherical` [n_edges, S, L²] the spherical basis.
        """
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
        """Compute the update [n_atoms, n_atom] of atoms; `radial` [n_pairs, I] is in the order of the pairs."""
        x = sources(self.project(h))
        summed = self.bilinear(neighbor_products(radial, x, degree).flatten(1)).index_select(0, rank)
        update: Tensor = self.up(self.scale(summed, x))
        return update


def radial_matrices(basis: Tensor, weight: Tensor) -> Tensor:
    """Matrices ρ [n, I, L] of a radial basis, from Gaussians `basis` [n, R] and `weight` [R, I, L]."""
    return torch.unflatten(basis @ weight.flatten(1), 1, tuple(weight.shape[1:]))


def circular_of(matrices: Tensor, angles: Tensor, rows: Tensor) -> Tensor:
    """Circular basis κ [m, I]: products of `rows` [m] of the matrices ρ [n, I, L] with polynomials `angles` [m, L]."""
    return (matrices.index_select(0, rows) @ angles[:, :, None]).squeeze(2)


def empty_weight(n_radial: int, n_embedding: int, n_angular: int) -> Tensor:
    """Make weights of `radial_matrices`, orthogonal over all R·L functions of the basis."""
    flat = orthogonal(torch.empty(n_embedding, n_radial * n_angular))
    return flat.view(n_embedding, n_radial, n_angular).permute(1, 0, 2).contiguous()
