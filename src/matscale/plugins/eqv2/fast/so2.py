r"""SO(2) convolutions on buffers, forward and backward, with three real products for a complex one.

For m > 0, x₊ and x₋ [n, K_m·c] hold the coefficients of +m and −m, W_r and W_i are the two halves of the weight:

    y₊ = W_r x₊ − W_i x₋ = t − W_s x₋          W_s = W_r + W_i
    y₋ = W_r x₋ + W_i x₊ = t + W_d x₊          W_d = W_i − W_r          t = W_r (x₊ + x₋)

Backward, with g the gradients of y, uses the same trick twice:

    g_x₊ = t' + W_d^T g₋,   g_x₋ = t' − W_s^T g₊,   t' = W_r^T (g₊ + g₋)
    A = (g₊ + g₋)(x₊ + x₋)^T,  S = g₊ x₋^T,  D = g₋ x₊^T:      g_W_r = A − S − D,   g_W_i = D − S

Coefficients are stored order-major in rows of [n, K_r·c], so that each part is a block of columns, which BLAS reads and
writes in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Columns of the parts of order-major coefficients that all have the same number of channels."""

    zero: slice
    """Columns of m = 0."""
    plus: list[slice]
    """Columns of +m, for m = 1..mmax."""
    minus: list[slice]
    """Columns of −m, for m = 1..mmax."""
    pairs: list[slice]
    """Columns of +m and −m together, for m = 1..mmax."""

    @property
    def width(self) -> int:
        width: int = self.pairs[-1].stop if self.pairs else self.zero.stop
        return width

    @classmethod
    def of(cls, widths: list[int]) -> Layout:
        """Make the layout from `widths`: the width of m = 0, then of each m > 0, which is used twice, for +m and −m."""
        plus, minus, pairs, start = [], [], [], widths[0]
        for width in widths[1:]:
            plus.append(slice(start, start + width))
            minus.append(slice(start + width, start + 2 * width))
            pairs.append(slice(start, start + 2 * width))
            start += 2 * width
        return cls(slice(0, widths[0]), plus, minus, pairs)


class Convolution:
    """Convolution with given weights: `forward` writes into a buffer, `backward` adds up the gradients of chunks.

    `weight` [n_extra + out_0, in_0] and `bias` are those of m = 0; the first `n_extra` outputs go to a separate buffer.
    `pairs` has a matrix [2 out_m, in_m] for each m > 0, with the rows of W_r above those of W_i.
    """

    def __init__(self, weight: Tensor, bias: Tensor, pairs: list[Tensor], n_extra: int = 0) -> None:
        self.n_extra, self.weight, self.bias = n_extra, weight, bias
        halves = [pair.chunk(2) for pair in pairs]
        self.real = [real for real, _ in halves]
        self.sum = [real + imaginary for real, imaginary in halves]
        self.difference = [imaginary - real for real, imaginary in halves]
        self.out = Layout.of([weight.shape[0] - n_extra, *(pair.shape[0] // 2 for pair in pairs)])
        self.into = Layout.of([weight.shape[1], *(pair.shape[1] for pair in pairs)])

    def forward(self, x: Tensor, y: Tensor, extra: Tensor | None = None) -> None:
        """Convolve `x` [n, >= in]; written to `y` [n, out] and `extra` [n, n_extra]."""
        zero = x[:, self.into.zero]
        if extra is not None:
            torch.addmm(self.bias[: self.n_extra], zero, self.weight[: self.n_extra].T, out=extra)
        torch.addmm(self.bias[self.n_extra :], zero, self.weight[self.n_extra :].T, out=y[:, self.out.zero])
        for m, (real, total, difference) in enumerate(zip(self.real, self.sum, self.difference)):
            x_plus, x_minus = x[:, self.into.plus[m]], x[:, self.into.minus[m]]
            y_plus, y_minus = y[:, self.out.plus[m]], y[:, self.out.minus[m]]
            torch.mm(x_plus + x_minus, real.T, out=y_plus)
            y_minus.copy_(y_plus).addmm_(x_plus, difference.T)
            y_plus.addmm_(x_minus, total.T, alpha=-1)

    def start_backward(self) -> None:
        """Allocate the gradients of the weights, which the first chunk writes and all others add to."""
        self.beta = 0.0
        self.g_weight, self.g_bias = torch.empty_like(self.weight), torch.zeros_like(self.bias)
        self.g_pairs = [real.new_empty(2 * real.shape[0], real.shape[1]) for real in self.real]  # A above D
        self.g_sum = [torch.empty_like(weight) for weight in self.sum]  # S

    def backward(self, g_y: Tensor, x: Tensor, g_x: Tensor, g_extra: Tensor | None = None) -> None:
        """Compute `g_x` [n, >= in] from `g_y` [n, out] and `g_extra` [n, n_extra].

        The gradients of the weights are added to those of earlier chunks.
        """
        g_zero, zero, beta = g_y[:, self.out.zero], x[:, self.into.zero], self.beta
        torch.mm(g_zero, self.weight[self.n_extra :], out=g_x[:, self.into.zero])
        self.g_weight[self.n_extra :].addmm_(g_zero.T, zero, beta=beta)
        self.g_bias[self.n_extra :] += g_zero.sum(0)
        if g_extra is not None:
            g_x[:, self.into.zero].addmm_(g_extra, self.weight[: self.n_extra])
            self.g_weight[: self.n_extra].addmm_(g_extra.T, zero, beta=beta)
            self.g_bias[: self.n_extra] += g_extra.sum(0)
        for m, (real, total, difference) in enumerate(zip(self.real, self.sum, self.difference)):
            x_plus, x_minus = x[:, self.into.plus[m]], x[:, self.into.minus[m]]
            g_plus, g_minus = g_y[:, self.out.plus[m]], g_y[:, self.out.minus[m]]
            g_x_plus, g_x_minus = g_x[:, self.into.plus[m]], g_x[:, self.into.minus[m]]
            g_common = g_plus + g_minus
            torch.mm(g_common, real, out=g_x_plus)
            g_x_minus.copy_(g_x_plus).addmm_(g_plus, total, alpha=-1)
            g_x_plus.addmm_(g_minus, difference)
            g_real, g_difference = self.g_pairs[m].chunk(2)
            g_real.addmm_(g_common.T, x_plus + x_minus, beta=beta)
            g_difference.addmm_(g_minus.T, x_plus, beta=beta)
            self.g_sum[m].addmm_(g_plus.T, x_minus, beta=beta)
        self.beta = 1.0

    def gradients(self) -> list[Tensor]:
        """Gradients of weight, bias and each pair. Call it only once, since it changes the buffers."""
        for pair, total in zip(self.g_pairs, self.g_sum):
            real, difference = pair.chunk(2)
            real.sub_(total).sub_(difference)
            difference.sub_(total)  # now the gradient of the imaginary half
        return [self.g_weight, self.g_bias, *self.g_pairs]
