"""SO(2) convolution: mixes degrees and channels of equal |m| in the frame of an edge (arXiv:2302.03655)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SO2Convolution(nn.Module):
    """SO(2) convolution: the general linear map of channels and degrees that commutes with rotations about an edge.

    For m > 0 it is a complex product: y₊ = W_r x₊ − W_i x₋, y₋ = W_r x₋ + W_i x₊.
    """

    def __init__(self, lmax: int, mmax: int, n_in: int, n_out: int, n_extra: int = 0) -> None:
        """Set up the convolution; for m = 0 it has `n_extra` additional scalar outputs."""
        super().__init__()
        self.n_extra, self.n_in, self.n_out = n_extra, n_in, n_out
        self.n_degrees = [lmax + 1 - m for m in range(mmax + 1)]
        """Number of degrees l that have an order m."""
        self.m0 = nn.Linear(self.n_degrees[0] * n_in, n_extra + self.n_degrees[0] * n_out)
        self.m = nn.ModuleList(nn.Linear(n * n_in, 2 * n * n_out, bias=False) for n in self.n_degrees[1:])
        with torch.no_grad():
            for linear in self.m:
                assert isinstance(linear, nn.Linear)
                linear.weight.mul_(0.5**0.5)  # since two products are added

    @property
    def n_weights(self) -> int:
        """Number of radial weights of an edge: for each |m|, one per degree and input channel."""
        return sum(self.n_degrees) * self.n_in

    def forward(self, x: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve `x` [n_edges, K_r, n_in], K_r coefficients per edge, after multiplication by `weights`, if given.

        `weights` are [n_edges, n_weights]. Returns coefficients [n_edges, K_r, n_out] and additional scalars [n_edges,
        n_extra].
        """
        sizes = [self.n_degrees[0], *(2 * n for n in self.n_degrees[1:])]
        parts = x.split(sizes, dim=1)
        factors = [None] * len(sizes) if weights is None else weights.split([n * self.n_in for n in self.n_degrees], 1)
        first = parts[0].flatten(1)
        first = self.m0(first if factors[0] is None else first * factors[0])
        out = [first[:, self.n_extra :].unflatten(1, (self.n_degrees[0], self.n_out))]
        for part, factor, linear, n in zip(parts[1:], factors[1:], self.m, self.n_degrees[1:]):
            pair = part.unflatten(1, (2, n)).flatten(2)  # [n_edges, ±m, n·n_in]
            product = linear(pair if factor is None else pair * factor[:, None])  # [n_edges, ±m, (r, i)·n·n_out]
            (plus_r, plus_i), (minus_r, minus_i) = (p.chunk(2, dim=-1) for p in product.unbind(1))
            turned = torch.stack([plus_r - minus_i, minus_r + plus_i], dim=1)
            out.append(turned.reshape(-1, 2 * n, self.n_out))
        return torch.cat(out, dim=1), first[:, : self.n_extra]
