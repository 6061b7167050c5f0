r"""Output heads: energy, forces and stress from the features of all layers.

    z      = norm σ(Σ_layers P_n (x_n + FFN norm x_n))              of atoms and, with direct forces, of slots
    E_s    = Σ_{i in s} e(z_i)
    F_i    = f(z_i) Σ_k g(z_ik) ∘ n_ik                              g has three outputs, one for each of x, y, z
    σ_s    = mean_{i in s} (a(z_i) 1 + Σ_k w_ik b(z_ik) n_ik n_ikᵀ)  unpublished; w = e^b is the weight of a neighbour

The force head is the published one. Features and g do not depend on the orientation of the structure, so their products
with single components of n are not equivariant. The stress is equivariant, as a sum of multiples of n nᵀ and 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import gelu

from matscale.plugin import AtomicBatch, full_precision, mean_by_structure, sum_by_structure
from matscale.plugins.escaip.blocks import FeedForward
from matscale.plugins.escaip.config import EScAIPConfig
from matscale.plugins.escaip.layout import Layout
from matscale.plugins.escaip.norm import RMSNorm


class Readout(nn.Module):
    """Readout of the features of all stages: the input, and the output of every block.

    Each stage passes through a feed-forward network; one projection maps all of them to H channels.
    """

    def __init__(self, config: EScAIPConfig) -> None:
        super().__init__()
        hidden, n_stages = config.hidden, config.n_layers + 1
        self.norms = nn.ModuleList(RMSNorm(hidden) for _ in range(n_stages))
        self.feed_forwards = nn.ModuleList(FeedForward(hidden, config.ffn_factor) for _ in range(n_stages))
        self.projection = nn.Linear(n_stages * hidden, hidden)
        self.norm = RMSNorm(hidden)

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Read out the features of all `stages`, each [..., H], as [..., H]; one stage at a time, to save memory."""
        total: Tensor = self.projection.bias
        weights = self.projection.weight.chunk(len(stages), dim=1)
        for x, norm, feed_forward, weight in zip(stages, self.norms, self.feed_forwards, weights):
            total = total + functional.linear(x + feed_forward(norm(x)), weight)
        normalised: Tensor = self.norm(gelu(total))
        return normalised


class Mlp(nn.Module):
    """MLP from H to n_out channels. Its output starts near zero, which stands for the mean of the data."""

    def __init__(self, config: EScAIPConfig, n_out: int, has_norm: bool = True) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden) if has_norm else nn.Identity()
        self.feed_forward = FeedForward(config.hidden, config.ffn_factor)
        self.out = nn.Linear(config.hidden, n_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last dimension of `x` [..., H]: returns [..., n_out]."""
        out: Tensor = self.out(self.feed_forward(self.norm(x)))
        return out


class EnergyHead(nn.Module):
    """Head of the energy: a sum over atoms. In published gradient models, this head has no norm."""

    def __init__(self, config: EScAIPConfig) -> None:
        super().__init__()
        self.mlp = Mlp(config, 1, has_norm=config.is_direct)

    def forward(self, z: Tensor, data: AtomicBatch) -> Tensor:
        """Energies [n_structures] in float64, from features `z` [n_atoms, H] of atoms."""
        return sum_by_structure(self.mlp(z).squeeze(-1), data)


class ForcesHead(nn.Module):
    """Head of the forces: weighted sum over the directions of neighbours, with a weight for each component."""

    def __init__(self, config: EScAIPConfig) -> None:
        super().__init__()
        self.atom_norm, self.edge_norm = RMSNorm(config.hidden), RMSNorm(config.hidden)
        self.magnitude, self.components = Mlp(config, 1, has_norm=False), Mlp(config, 3, has_norm=False)

    def forward(self, z: Tensor, z_edge: Tensor, layout: Layout) -> Tensor:
        """Forces [n_atoms, 3], from features of atoms `z` [n_atoms, H] and slots `z_edge` [n_atoms, W, H]."""
        # Slot 0 and padding have no direction, so they do not contribute.
        pulled = (self.components(self.edge_norm(z_edge)) * layout.direction).sum(1)
        forces: Tensor = pulled * self.magnitude(self.atom_norm(z))
        return forces


class StressHead(nn.Module):
    """Head of the stress: an isotropic part for each atom, and a part along the direction of each neighbour."""

    def __init__(self, config: EScAIPConfig) -> None:
        super().__init__()
        self.isotropic, self.along = Mlp(config, 1), Mlp(config, 1)

    def forward(self, z: Tensor, z_edge: Tensor, layout: Layout, data: AtomicBatch) -> Tensor:
        """Stress [n_structures, 3, 3], from features of atoms `z` [n_atoms, H] and slots `z_edge` [n_atoms, W, H]."""
        return mean_by_structure(self._of_atoms(self.isotropic(z), self.along(z_edge), layout), data)

    @full_precision
    def _of_atoms(self, isotropic: Tensor, along: Tensor, layout: Layout) -> Tensor:
        n = layout.direction
        weighted = n * (along * layout.log_weight.exp()[:, :, None])
        one = torch.eye(3, dtype=n.dtype, device=n.device)
        return isotropic[:, :, None] * one + weighted.transpose(1, 2) @ n
