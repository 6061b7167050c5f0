"""Layers of GemNet. They have no biases, so that zeros, such as those of an edge at the cutoff, stay zero.

Dense layers start orthogonal with standardised rows, activations are scaled to preserve the variance of a normal
variable, and factors measured before the first step (`Scale`) preserve the variance of each sum and product. Therefore
the model needs no norms (arXiv:2106.08903, section 6).
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional

from matscale.plugin import LinearRows, Scoped

SQRT_HALF = math.sqrt(0.5)
SILU = 1 / 0.6
"""Factor by which SiLU(x) is multiplied, so that its variance is about one for a standard normal x."""


def scaled_silu(x: Tensor) -> Tensor:
    """SiLU(x)/0.6"""
    return functional.silu(x) * SILU


@torch.no_grad()
def orthogonal(weight: Tensor) -> Tensor:
    """Fill `weight` [n_out, n_in] with orthogonal rows or columns, standardised along n_in, with variance 1/n_in."""
    if weight.is_meta:  # no memory to fill: only parameters are counted
        return weight
    nn.init.orthogonal_(weight)
    n_in = weight.shape[1]
    if n_in > 1:
        var, mean = torch.var_mean(weight, dim=1, keepdim=True)
        weight.copy_((weight - mean) / (var + 1e-6).sqrt())
    return weight.mul_(1 / math.sqrt(n_in))


class Dense(nn.Module):
    """Linear map without bias and, unless `activate` is false, the scaled SiLU."""

    def __init__(self, n_in: int, n_out: int, *, activate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(orthogonal(torch.empty(n_out, n_in)))
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """Map the last dimension of `x` [..., n_in]: returns [..., n_out]."""
        y = functional.linear(x, self.weight)
        return scaled_silu(y) if self.activate else y


class PairDense(nn.Module):
    """Dense layer on the concatenated features of an edge j → i and its two atoms: σ(W [h_j, h_i, m]).

    The products with h are computed once per atom.
    """

    def __init__(self, n_atom: int, n_edge: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(orthogonal(torch.empty(n_out, 2 * n_atom + n_edge)))
        self.n_atom = n_atom

    def forward(self, h: Tensor, m: Tensor, sources: LinearRows, targets: LinearRows) -> Tensor:
        """Compute [n_edges, n_out] from features of atoms `h` [n_atoms, n_atom] and edges `m` [n_edges, n_edge]."""
        w_source, w_target, w_edge = self.weight.split([self.n_atom, self.n_atom, m.shape[1]], dim=1)
        of_atoms = sources(functional.linear(h, w_source)) + targets(functional.linear(h, w_target))
        return scaled_silu(of_atoms + functional.linear(m, w_edge))


class Residual(nn.Module):
    """Residual layer (x + σ(W₂ σ(W₁ x))) / √2.

    In half precision the sum is float32, so that rounding errors do not accumulate.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = Dense(width, width), Dense(width, width)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(self.first(x))
        return (x.to(torch.promote_types(x.dtype, torch.float32)) + change) * SQRT_HALF


def network(n_in: int, width: int, n_residual: int, *, project: bool) -> nn.Sequential:
    """Stack of residual layers, after a dense layer if widths differ or `project` is true."""
    first = [Dense(n_in, width)] if project or n_in != width else []
    return nn.Sequential(*first, *(Residual(width) for _ in range(n_residual)))


_FITTING = Scoped("fitting", False)


class Scale(nn.Module):
    """Scale factor that gives the result of a sum or product the variance of its input.

    The factor is measured once, before training, and is part of the state. Zero means "not measured" and has no effect.
    A factor that is set already, for example in an imported model, is kept.
    """

    factor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.zeros(()))

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """Scale `x` [n, c] to the variance of `reference` [m, c'], which is read only while factors are measured."""
        if _FITTING.get():
            self._measure(x, reference)
        return x * self._value().to(x.dtype)

    def product(self, x: Tensor, layer: Dense, basis: Tensor) -> Tensor:
        """Compute x ∘ layer(basis), scaled to the variance of `x` [n, c].

        The factor is merged into the layer's weight.
        """
        if _FITTING.get():
            self._measure(x * layer(basis), x)
        return x * functional.linear(basis, layer.weight * self._value().to(layer.weight.dtype))

    def _value(self) -> Tensor:
        return torch.where(self.factor == 0, torch.ones_like(self.factor), self.factor)

    @torch.no_grad()
    def _measure(self, x: Tensor, reference: Tensor) -> None:
        if bool(self.factor != 0) or min(x.shape[0], reference.shape[0]) < 2:
            return
        before, after = (float(y.double().var(0).mean()) for y in (reference, x))
        if before > 0 and after > 0:
            self.factor.fill_(math.sqrt(before / after))


def fitting() -> AbstractContextManager[None]:
    """Context in which each unmeasured `Scale` measures its factor in the forward pass before it is applied."""
    return _FITTING.set(True)
