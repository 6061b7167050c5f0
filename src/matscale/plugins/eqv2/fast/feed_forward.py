r"""Feed-forward network on the grid of each atom, which keeps only coefficients in memory.

The pointwise MLP W₄ silu(W₂ silu(W₀ f(n))) begins and ends with linear maps of channels, which commute with the maps to
the grid and back. So W₀ is merged into `expand` and W₄ into `contract`, degree by degree. The computation on the grid
is then

    c -> F silu(W₂ silu(G c))          c [K, H] coefficients, G to the grid of P points, F back.

The backward computes values on the grid again, a few atoms at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from matscale.plugin import sphere
from matscale.plugins.eqv2.blocks import FeedForward
from matscale.plugins.eqv2.fast.derivative import first_derivative
from matscale.plugins.eqv2.fast.grid_products import folded, product, product_into
from matscale.plugins.eqv2.fast.linear import by_degree, linear_at, so3_linear
from matscale.plugins.eqv2.fast.sizes import grid_at_once


def feed_forward(module: FeedForward, x: Tensor, grid: sphere.SphereGrid) -> Tensor:
    """Feed-forward network: computes [n_atoms, K, n_out] from `x` [n_atoms, K, C] (K coefficients, C channels)."""
    first, middle, last = (linear_at(module.pointwise, layer).weight for layer in (0, 2, 4))
    parts = by_degree(x)
    inner = so3_linear(parts, first @ module.expand.weight, first @ module.expand.bias)
    curved = Pointwise.apply(inner, middle, grid)
    contract = module.contract.weight
    weight = torch.cat([contract[:1], contract[1:] @ last])
    return so3_linear([module.scalars(parts[0]), *by_degree(curved)[1:]], weight, module.contract.bias)


def scalars(module: FeedForward, x: Tensor) -> Tensor:
    """Output of `feed_forward` for l = 0, [n_atoms, n_out], which does not pass through the grid."""
    return torch.nn.functional.linear(module.scalars(x[:, 0]), module.contract.weight[0], module.contract.bias)


class Pointwise(torch.autograd.Function):
    """Pointwise layer: F silu(W silu(G x)) for l > 0 and zeros for l = 0.

    `x` is [n_atoms, K, H], and W is `weight` [H, H].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, grid: sphere.SphereGrid) -> Tensor:
        at_once = grid_at_once(grid.to_grid.shape[0] * x.shape[2], x)
        to_grid, from_grid = grid.to_grid.to(x.dtype), grid.from_grid[1:].to(x.dtype)
        out = torch.zeros_like(x)
        for c, rest in zip(x.split(at_once), out[:, 1:].split(at_once)):
            inner = torch.nn.functional.silu(product(to_grid, folded(c)), inplace=True)
            outer = torch.nn.functional.silu(_mixed(inner, weight.T), inplace=True)
            product_into(from_grid, outer, rest)
        ctx.grid = grid
        ctx.save_for_backward(x, weight)
        return out

    @staticmethod
    @first_derivative
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        at_once = grid_at_once(ctx.grid.to_grid.shape[0] * x.shape[2], x)
        to_grid, from_grid = ctx.grid.to_grid.to(x.dtype), ctx.grid.from_grid[1:].to(x.dtype)
        g_x, g_weight = torch.empty_like(x), torch.zeros_like(weight)
        silu_backward = torch.ops.aten.silu_backward
        for c, g_c, g_out in zip(*(part.split(at_once) for part in (x, g_x, g[:, 1:]))):
            before = product(to_grid, folded(c))
            inner = torch.nn.functional.silu(before)
            g_grid = product(from_grid.T, folded(g_out))
            silu_backward.grad_input(g_grid, _mixed(inner, weight.T), grad_input=g_grid)
            g_weight.addmm_(g_grid.reshape(-1, len(weight)).T, inner.reshape(-1, len(weight)))
            g_inner = _mixed(g_grid, weight)
            silu_backward.grad_input(g_inner, before, grad_input=g_inner)
            product_into(to_grid.T, g_inner, g_c)
        return g_x, g_weight, None


def _mixed(values: Tensor, weight: Tensor) -> Tensor:
    """Multiply the channels of the values on the grid, in either layout of `product`, by `weight` [H, H]."""
    return (values.view(-1, len(weight)) @ weight).view_as(values)
