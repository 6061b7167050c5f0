r"""Smooth transition between the two charts of module `rotation`, for models whose energy must be continuous.

A chart is a rule that gives every edge a frame, that is a rotation onto the polar axis.

All operations on an edge commute with rotations about it, so the choice of chart matters only for activations: the
error of their grid depends on its orientation about the edge. When an edge changes from one chart to the other, its
message would jump by that error. In the range 0.85 < |y| < 0.95, an activation S is therefore averaged over both,

    S̃(h) = (1 − u) S(h) + u T^T S(T h)            u = share of the chart that the edge is not in,    T = D(Y(γ)),

which is the same function from either side. The share of the polar chart grows from 0 to 1 as 10t³ − 15t⁴ + 6t⁵, t =
(|y| − 0.85)/0.1, with two vanishing derivatives at both ends: energies have two continuous derivatives. γ is the angle
about the edge from the frame of the first chart to that of the polar one,

    cos γ = −yz/(ρρ'),    sin γ = −x/(ρρ'),        ρ = √(x² + z²),  ρ' = √(x² + y²)                  of n = (x, y, z).

A tenth of all directions lies in this range; only their activations are computed twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from matscale.core.model.sphere.coefficients import degrees, kept, orders
from matscale.core.model.sphere.rotation import POLAR, is_polar, multiples

HALF_WIDTH = 0.05
"""Half the width of the range of |y| around `POLAR` in which both charts are used."""


@dataclass(frozen=True)
class Passage:
    """Edges in the range of |y| where both charts are used, with rotations into the frame of the other chart.

    The K_r coefficients of these edges are order-major (module `coefficients`).
    """

    edges: Tensor
    """[n] indices of these edges in the batch, ascending."""
    share: Tensor
    """[n] weight u of the other chart."""
    cosine: Tensor
    """[n, K_r] cos mγ for the order m of each coefficient, with the angle γ between the frames of both charts."""
    sine: Tensor
    """[n, K_r] −sin mγ, where m has its sign."""
    opposite: Tensor
    """[K_r] index of the coefficient with order −m, for each coefficient."""

    def turned(self, x: Tensor) -> Tensor:
        """Rotate coefficients [n, K_r, C] into the frame of the other chart.

        `x` may have only the first of the K_r coefficients, if these include −m for every m.
        """
        return self._turned(x, 1.0)

    def turned_back(self, x: Tensor) -> Tensor:
        """Rotate coefficients [n, K_r, C] back from the frame of the other chart, by T^T."""
        return self._turned(x, -1.0)

    def _turned(self, x: Tensor, sign: float) -> Tensor:
        n = x.shape[1]
        swapped = x.index_select(1, self.opposite[:n])
        return self.cosine[:, :n, None] * x + (sign * self.sine[:, :n, None]) * swapped

    def within(self, edges: slice) -> Passage | None:
        """Passage of the edges that lie in the slice `edges`, numbered from its start; None if there are none."""
        start, stop = torch.searchsorted(self.edges, self.edges.new_tensor([edges.start, edges.stop])).tolist()
        if start == stop:
            return None
        share, cosine, sine = (x[start:stop] for x in (self.share, self.cosine, self.sine))
        return Passage(self.edges[start:stop] - edges.start, share, cosine, sine, self.opposite)


class ChartPassage(nn.Module):
    """Module that makes the `Passage` of a batch of edges, differentiable in the edge vectors."""

    opposite: Tensor
    order: Tensor
    sign: Tensor

    def __init__(self, lmax: int, mmax: int) -> None:
        super().__init__()
        self.mmax, places = mmax, kept(lmax, mmax).places
        m = np.array(orders(lmax))[places]
        opposite = [places.index(degrees(lmax)[p] * (degrees(lmax)[p] + 1) - orders(lmax)[p]) for p in places]
        for name, value in {"opposite": np.array(opposite), "order": np.abs(m), "sign": np.sign(m) * 1.0}.items():
            self.register_buffer(name, torch.from_numpy(value), persistent=False)

    def forward(self, vec: Tensor) -> Passage | None:
        """Make the passage for vectors [n_edges, 3] of non-zero length.

        Returns None if mmax = 0, since only coefficients with m ≠ 0 depend on the chart.
        """
        if self.mmax == 0:
            return None
        n = nn.functional.normalize(vec.double(), dim=-1)
        if torch.compiler.is_compiling():  # all edges, most with weight 0: their number would break the graph
            edges = torch.arange(len(n), device=n.device)
        else:
            edges = ((n.detach()[:, 1].abs() - POLAR).abs() < HALF_WIDTH).nonzero()[:, 0]
            n = n.index_select(0, edges)
        x, y, z = n.unbind(-1)
        both = ((x.square() + z.square()) * (x.square() + y.square())).clamp(min=1e-12).sqrt()
        cosines, sines = multiples(-y * z / both, -x / both, self.mmax)
        polar = is_polar(n)
        to_other = torch.where(polar, -1.0, 1.0)[:, None]  # from the polar chart to the first, the rotation is −γ
        sine = -to_other * sines.index_select(1, self.order) * self.sign
        t = ((y.abs() - (POLAR - HALF_WIDTH)) / (2 * HALF_WIDTH)).clamp(0, 1)
        share = t**3 * (10 + t * (6 * t - 15))
        share = torch.where(polar, 1 - share, share)
        cosine = cosines.index_select(1, self.order)
        return Passage(edges, share.to(vec.dtype), cosine.to(vec.dtype), sine.to(vec.dtype), self.opposite)
