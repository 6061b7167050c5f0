"""Activations of functions on the sphere: on a grid, and by gates of scalars."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from matscale.core.model.sphere.charts import Passage
from matscale.core.model.sphere.coefficients import degrees, kept
from matscale.core.model.sphere.grid import SphereGrid
from matscale.core.precision import full_precision


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


class Gate(nn.Module):
    """Gate activation: SiLU of the scalars, and every degree l > 0 times the sigmoid of a scalar; exactly equivariant.

    With `mmax`, coefficients are those of an edge, order-major; otherwise those of an atom, degree-major.
    """

    degree: Tensor

    def __init__(self, lmax: int, mmax: int | None = None) -> None:
        super().__init__()
        self.lmax, degree = lmax, np.array(degrees(lmax))
        if mmax is not None:
            degree = degree[kept(lmax, mmax).places]
        self.register_buffer("degree", torch.from_numpy(degree[1:] - 1), persistent=False)

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """Apply the gates [n, lmax·C], degree by degree, to `x` [n, K or K_r, C]."""
        opened = torch.sigmoid(gates).unflatten(1, (self.lmax, -1)).index_select(1, self.degree)
        return torch.cat([nn.functional.silu(x[:, :1]), x[:, 1:] * opened], dim=1)


def smooth_leaky(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2 without its kink: 0.2 x + 0.8 SiLU(x)."""
    return 0.2 * x + 0.8 * nn.functional.silu(x)
