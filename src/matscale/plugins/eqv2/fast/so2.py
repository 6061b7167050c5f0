r"""SO(2) convolutions on buffers, forward and backward, with three real products for a complex one.

For m > 0, x₊ and x₋ [n, K_m·c] hold the coefficients of +m and −m, W_r and W_i are the two halves of the weight:

    y₊ = W_r x₊ − W_i x₋ = t − W_s x₋          W_s = W_r + W_i
    y₋ = W_r x₋ + W_i x₊ = t + W_d x₊          W_d = W_i − W_r          t = W_r (x₊ + x₋)

Backward, with g the gradients of y, the same trick twice:

    g_x₊ = t' + W_d^T g₋,   g_x₋ = t' − W_s^T g₊,   t' = W_r^T (g₊ + g₋)
    A = (g₊ + g₋)(x₊ + x₋)^T,  S = g₊ x₋^T,  D = g₋ x₊^T:      g_W_r = A − S − D,   g_W_i = D − S

Coefficients lie order-major in rows of [n, K_r·c]: each part is a block of columns, which BLAS reads and writes in
place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Columns of the parts of order-major coefficients with the same number of channels for each."""

    zero: slice
    """m = 0"""
    plus: list[slice]
    """+m, m = 1..mmax"""
    minus: list[slice]
    """−m"""
    pairs: list[slice]
    """+m and −m"""

    @property
    def width(self) -> int:
        return self.pairs[-1].stop if self.pairs else self.zero.stop

    @classmethod
    def of(cls, widths: list[int]) -> Layout:
        """`widths` of m = 0 and of each m > 0, which occurs twice."""
        plus, minus, pairs, start = [], [], [], widths[0]
        for width in widths[1:]:
            plus.append(slice(start, start + width))
            minus.append(slice(start + width, start + 2 * width))
            pairs.append(slice(start, start + 2 * width))
            start += 2 * width
        return cls(slice(0, widths[0]), plus, minus, pairs)


class Convolution:
    """A convolution with given weights between two layouts: `forward` into a buffer; `backward` collects gradients.

    `weight` [n_extra + out_0, in_0] and `bias` of m = 0, whose first `n_extra` outputs go to a buffer of their own;
    `pairs` [2 out_m, in_m] of each m > 0, the rows of W_r above those of W_i.
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
        """`x` [n, >= in] -> `y` [n, out], `extra` [n, n_extra]"""
        zero = x[:, self.into.zero]
        if extra is not None:
            torch.addmm(self.bias[: self.n_extra], zero, self.weight[: self.n_extra].T, out=extra)
        torch.addmm(self.bias[self.n_extra :], zero, self.weight[self.n_extra :].T, out=y[:, self.out.zero])
        for m, (real, total, difference) in enumerate(zip(self.real, self.sum, self.difference)):
            x_plus, x_minus = x[:, self.into.plus[m]], x[:, self.into.minus[m]]
            y_plus, y_minus = y[:, self.out.plus[m]], y[:, self.out.minus[m]]
            common = (x_plus + x_minus) @ real.T
            torch.addmm(common, x_minus, total.T, alpha=-1, out=y_plus)
            torch.addmm(common, x_plus, difference.T, out=y_minus)

    def start_backward(self) -> None:
        """Make room for the gradients of the weights."""
        self.g_weight, self.g_bias = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self.g_real, self.g_sum, self.g_difference = (
            [torch.zeros_like(w) for w in weights] for weights in (self.real, self.sum, self.difference)
        )

    def backward(self, g_y: Tensor, x: Tensor, g_x: Tensor, g_extra: Tensor | None = None) -> None:
        """From `g_y` [n, out] and `g_extra` [n, n_extra] to `g_x` [n, >= in], and to the gradients of the weights."""
        g_zero, zero = g_y[:, self.out.zero], x[:, self.into.zero]
        torch.mm(g_zero, self.weight[self.n_extra :], out=g_x[:, self.into.zero])
        self.g_weight[self.n_extra :].addmm_(g_zero.T, zero)
        self.g_bias[self.n_extra :] += g_zero.sum(0)
        if g_extra is not None:
            g_x[:, self.into.zero].addmm_(g_extra, self.weight[: self.n_extra])
            self.g_weight[: self.n_extra].addmm_(g_extra.T, zero)
            self.g_bias[: self.n_extra] += g_extra.sum(0)
        for m, (real, total, difference) in enumerate(zip(self.real, self.sum, self.difference)):
            x_plus, x_minus = x[:, self.into.plus[m]], x[:, self.into.minus[m]]
            g_plus, g_minus = g_y[:, self.out.plus[m]], g_y[:, self.out.minus[m]]
            g_common = g_plus + g_minus
            common = g_common @ real
            torch.addmm(common, g_minus, difference, out=g_x[:, self.into.plus[m]])
            torch.addmm(common, g_plus, total, alpha=-1, out=g_x[:, self.into.minus[m]])
            self.g_real[m].addmm_(g_common.T, x_plus + x_minus)
            self.g_sum[m].addmm_(g_plus.T, x_minus)
            self.g_difference[m].addmm_(g_minus.T, x_plus)

    def gradients(self) -> list[Tensor]:
        """Of weight, bias and each pair."""
        pairs = [torch.cat([a - s - d, d - s]) for a, s, d in zip(self.g_real, self.g_sum, self.g_difference)]
        return [self.g_weight, self.g_bias, *pairs]
