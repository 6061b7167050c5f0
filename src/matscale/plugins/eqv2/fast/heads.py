"""Output heads of energy and stress, computed on sorted edges."""

from __future__ import annotations

from typing import Any

import torch
from e3nn import o3
from torch import Tensor, nn

from matscale.plugin import AtomicBatch, mean_by_structure, sphere, sum_by_structure
from matscale.plugins.eqv2.fast.edges import SortedEdges
from matscale.plugins.eqv2.fast.feed_forward import feed_forward, scalars
from matscale.plugins.eqv2.heads import EnergyHead, EquivariantStressHead, Rank2StressHead


def energy(head: EnergyHead, x: Tensor, data: AtomicBatch) -> Tensor:
    """Energies [n_structures] in float64, from `x` [n_atoms, K, C] (K coefficients, C channels)."""
    return sum_by_structure(scalars(head.feed_forward, x)[:, 0], data) / head.mean_atoms


def stress(
    head: nn.Module, x: Tensor, edges: SortedEdges, grid: sphere.SphereGrid, data: AtomicBatch
) -> tuple[Tensor, Tensor]:
    """Parts of the stress, isotropic [n_structures] and anisotropic [n_structures, 5], from `x` [n_atoms, K, C]."""
    if isinstance(head, Rank2StressHead):
        return _rank2_stress(head, x, edges, data)
    assert isinstance(head, EquivariantStressHead)
    mean = mean_by_structure(feed_forward(head.feed_forward, x, grid)[:, :9, 0], data)
    return mean[:, 0], mean[:, 4:]


def _rank2_stress(head: Rank2StressHead, x: Tensor, edges: SortedEdges, data: AtomicBatch) -> tuple[Tensor, Tensor]:
    vec = edges.edges.vec
    y = o3.spherical_harmonics(list(range(head.lmax + 1)), vec, normalize=False, normalization="integral")
    y = head.harmonics_norm(y[:, :, None])  # [n_edges, K, 1]
    y2 = o3.spherical_harmonics(2, vec, normalize=True, normalization="integral")
    of_source = (y.transpose(1, 2) @ x.index_select(0, edges.edges.source)).squeeze(1)
    targets = edges.targets(x).split([block.n_atoms for block in edges.blocks])
    of_target = torch.cat([(b @ t).flatten(0, 1) for (b,), t in zip(edges.per_target(y.squeeze(2)), targets)])
    features = head.edge_norm(torch.cat([of_source, of_target], dim=1))
    means, moments = [], []
    if (envelope := edges.edges.envelope) is None:
        for f, y2_block in edges.per_target(features, y2):
            means.append(f.mean(1))
            moments.append(y2_block.transpose(1, 2) @ f / f.shape[1])
    else:  # `Edges.mean_on_targets`
        for f, y2_block, fade in edges.per_target(features, y2, envelope[:, None]):
            share = fade.square() / (fade.sum(1, keepdim=True) + 1e-16)
            means.append((share * f).sum(1))
            moments.append((share * y2_block).transpose(1, 2) @ f)
    isotropic = head.isotropic(edges.atoms(torch.cat(means))).squeeze(-1)
    anisotropic = head.anisotropic(edges.atoms(torch.cat(moments))).squeeze(-1)
    (scale0, shift0), (scale2, shift2) = head.normalisers.to(x.dtype)
    return (
        mean_by_structure(isotropic, data) * scale0 + shift0,
        mean_by_structure(anisotropic, data) * scale2 + shift2,
    )


class Idle(torch.autograd.Function):
    """Function that gives unused parameters a gradient of zero, so that their weight decay is that of used ones."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
        return g, *(torch.zeros_like(parameter) for parameter in ctx.saved_tensors)
