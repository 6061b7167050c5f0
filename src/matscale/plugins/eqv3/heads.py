r"""Output heads: energy, forces and stress from the coefficients of atoms.

energy = Σ_atoms MLP(x_{l=0}) / mean_atoms           forces = attention(x)_{l=1}, which is (x, y, z)
stress = mean over atoms of l = 0 and l = 2 of a gated network (`sphere.tensor_from_parts`)
"""

from __future__ import annotations

from torch import Tensor, nn

from matscale.plugin import AtomicBatch, mean_by_structure, sphere, sum_by_structure
from matscale.plugins.eqv3.attention import GraphAttention
from matscale.plugins.eqv3.config import EqV3Config


class EnergyHead(nn.Module):
    """Head of the energy: an MLP of the scalars, summed over atoms."""

    def __init__(self, config: EqV3Config) -> None:
        super().__init__()
        self.mean_atoms, hidden = config.mean_atoms, config.ffn_hidden
        self.mlp = nn.Sequential(nn.Linear(config.channels, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(self, x: Tensor, data: AtomicBatch) -> Tensor:
        """Energies [n_structures] in float64, from `x` [n_atoms, K, C] (K coefficients, C channels)."""
        return sum_by_structure(self.mlp(x[:, 0])[:, 0], data) / self.mean_atoms


class ForcesHead(nn.Module):
    """Head of the forces, or of noise: an attention layer with gates, whose l = 1 coefficients are the vectors."""

    def __init__(self, config: EqV3Config) -> None:
        super().__init__()
        self.attention = GraphAttention(config, 1, "gate", drop=0.0)

    def forward(self, x: Tensor, edges: sphere.Edges) -> Tensor:
        """Vectors [n_atoms, 3], from `x` [n_atoms, K, C] (K coefficients, C channels)."""
        coefficients: Tensor = self.attention(x, edges, None)
        return coefficients[:, 1:4, 0]


class StressHead(nn.Module):
    """Head of the stress: l = 0 and l = 2 coefficients of a network with gates, averaged over atoms."""

    def __init__(self, config: EqV3Config) -> None:
        super().__init__()
        lmax, channels, hidden = config.lmax, config.channels, config.ffn_hidden
        self.gates = nn.Linear(channels, lmax * hidden)
        self.expand = sphere.SO3Linear(lmax, channels, hidden)
        self.gate = sphere.Gate(lmax)
        self.contract = sphere.SO3Linear(lmax, hidden, 1)

    def forward(self, x: Tensor, data: AtomicBatch) -> Tensor:
        """Stress [n_structures, 3, 3], from `x` [n_atoms, K, C] (K coefficients, C channels)."""
        coefficients: Tensor = self.contract(self.gate(self.expand(x), self.gates(x[:, 0])))
        mean = mean_by_structure(coefficients[:, :9, 0], data)
        return sphere.tensor_from_parts(mean[:, 0], mean[:, 4:])
