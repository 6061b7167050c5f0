r"""Output heads: energy, forces and stress from the coefficients of atoms.

energy = Σ_atoms FFN(x)_{l=0} / mean_atoms               forces = attention(x)_{l=1}, which is (x, y, z)
stress = from l = 0 and l = 2 of a feed-forward network (`sphere.tensor_from_parts`)
"""

from __future__ import annotations

import torch
from e3nn import o3
from torch import Tensor, nn

from matscale.plugin import AtomicBatch, mean_by_structure, sphere, sum_by_structure
from matscale.plugins.eqv2.attention import GraphAttention
from matscale.plugins.eqv2.blocks import FeedForward
from matscale.plugins.eqv2.config import EqV2Config


class EnergyHead(nn.Module):
    """Head of the energy: scalars of a feed-forward network, summed over atoms."""

    def __init__(self, config: EqV2Config) -> None:
        super().__init__()
        self.feed_forward, self.mean_atoms = FeedForward(config, 1), config.mean_atoms

    def forward(self, x: Tensor, grid: sphere.SphereGrid, data: AtomicBatch) -> Tensor:
        """Energies [n_structures] in float64, from `x` [n_atoms, K, C] (K coefficients, C channels)."""
        return sum_by_structure(self.feed_forward(x, grid)[:, 0, 0], data) / self.mean_atoms


class ForcesHead(nn.Module):
    """Head of the forces: one more attention layer, whose l = 1 coefficients are the force vectors."""

    def __init__(self, config: EqV2Config) -> None:
        super().__init__()
        self.attention = GraphAttention(config, 1, alpha_drop=0.0)

    def forward(self, x: Tensor, edges: sphere.Edges, grid: sphere.SphereGrid) -> Tensor:
        """Forces [n_atoms, 3], from `x` [n_atoms, K, C] (K coefficients, C channels)."""
        coefficients: Tensor = self.attention(x, edges, grid)
        return coefficients[:, 1:4, 0]


class EquivariantStressHead(nn.Module):
    """Head of the stress: l = 0 and l = 2 coefficients of a feed-forward network, averaged over atoms."""

    def __init__(self, config: EqV2Config) -> None:
        super().__init__()
        self.feed_forward = FeedForward(config, 1)

    def forward(
        self, x: Tensor, edges: sphere.Edges, grid: sphere.SphereGrid, data: AtomicBatch
    ) -> tuple[Tensor, Tensor]:
        """Parts of the stress, isotropic [n_structures], anisotropic [n_structures, 5], from `x` [n_atoms, K, C]."""
        mean = mean_by_structure(self.feed_forward(x, grid)[:, :9, 0], data)
        return mean[:, 0], mean[:, 4:]


class Rank2StressHead(nn.Module):
    """Head of the stress in the published models; not equivariant, since an MLP acts on single l = 2 components."""

    normalisers: Tensor

    def __init__(self, config: EqV2Config) -> None:
        super().__init__()
        width = 2 * config.channels
        self.lmax = config.lmax
        self.harmonics_norm = sphere.make_norm(config.norm, config.lmax, 1)
        self.edge_norm = nn.LayerNorm(width)
        self.isotropic = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        self.anisotropic = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        # Scale and shift of the two parts. Imported models have others: they were trained on separately scaled parts.
        self.register_buffer("normalisers", torch.tensor([[1.0, 0.0], [1.0, 0.0]]))

    def forward(
        self, x: Tensor, edges: sphere.Edges, grid: sphere.SphereGrid, data: AtomicBatch
    ) -> tuple[Tensor, Tensor]:
        """Parts of the stress, isotropic [n_structures], anisotropic [n_structures, 5], from `x` [n_atoms, K, C]."""
        ls = list(range(self.lmax + 1))
        # Harmonics of the vector itself, d^l Y(n): the norm removes only part of the distance.
        y = o3.spherical_harmonics(ls, edges.vec, normalize=False, normalization="integral")
        y = self.harmonics_norm(y[:, :, None])  # [n_edges, K, 1]
        pair = torch.cat([x.index_select(0, edges.source), x.index_select(0, edges.target)], dim=2)
        features = self.edge_norm((y * pair).sum(1))  # [n_edges, 2C]
        isotropic = self.isotropic(edges.mean_on_targets(features)).squeeze(-1)
        y2 = o3.spherical_harmonics(2, edges.vec, normalize=True, normalization="integral")
        anisotropic = self.anisotropic(edges.mean_on_targets(y2[:, :, None] * features[:, None])).squeeze(-1)
        (scale0, shift0), (scale2, shift2) = self.normalisers.to(x.dtype)
        return (
            mean_by_structure(isotropic, data) * scale0 + shift0,
            mean_by_structure(anisotropic, data) * scale2 + shift2,
        )
