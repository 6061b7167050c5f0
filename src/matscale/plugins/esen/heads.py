r"""Output heads: energy, forces and stress from the coefficients of atoms.

energy = Σ_atoms MLP(x_{l=0})                        forces = W x_{l=1}, which is (x, y, z)
stress = mean over atoms of MLP(x_{l=0}) and W' x_{l=2} (`sphere.tensor_from_parts`)
"""

from __future__ import annotations

from torch import Tensor, nn

from matscale.plugin import AtomicBatch, mean_by_structure, sphere, sum_by_structure
from matscale.plugins.esen.config import ESENConfig


def scalar_mlp(config: ESENConfig) -> nn.Sequential:
    """Make an MLP from the scalars of an atom to one number."""
    channels, hidden = config.channels, config.hidden
    return nn.Sequential(
        nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1)
    )


class EnergyHead(nn.Module):
    """Head of the energy: an MLP of the scalars, summed over atoms."""

    def __init__(self, config: ESENConfig) -> None:
        super().__init__()
        self.mlp = scalar_mlp(config)

    def forward(self, x: Tensor, data: AtomicBatch) -> Tensor:
        """Energies [n_structures] in float64, from `x` [n_atoms, K, C] (K coefficients, C channels)."""
        return sum_by_structure(self.mlp(x[:, 0])[:, 0], data)


class ForcesHead(nn.Module):
    """Head of the forces: one linear map of the l = 1 coefficients."""

    def __init__(self, config: ESENConfig) -> None:
        super().__init__()
        self.linear = sphere.SO3Linear(1, config.channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Forces [n_atoms, 3], from `x` [n_atoms, K, C] (K coefficients, C channels)."""
        coefficients: Tensor = self.linear(x[:, :4])
        return coefficients[:, 1:, 0]


class StressHead(nn.Module):
    """Head of the stress: an MLP of the scalars and a linear map of the l = 2 coefficients, averaged over atoms."""

    def __init__(self, config: ESENConfig) -> None:
        super().__init__()
        self.mlp = scalar_mlp(config)
        self.linear = sphere.SO3Linear(2, config.channels, 1)

    def forward(self, x: Tensor, data: AtomicBatch) -> Tensor:
        """Stress [n_structures, 3, 3], from `x` [n_atoms, K, C] (K coefficients, C channels)."""
        isotropic = mean_by_structure(self.mlp(x[:, 0])[:, 0], data)
        anisotropic = mean_by_structure(self.linear(x[:, :9])[:, 4:, 0], data)
        return sphere.tensor_from_parts(isotropic, anisotropic)
