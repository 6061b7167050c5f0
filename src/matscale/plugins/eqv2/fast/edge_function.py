r"""Edge function in chunks of edges, with a backward written by hand: the same numbers as `attention.EdgeFunction`.

For each edge, with D [K_r, K] its rotation and w(e) = W ρ_e + b the last linear map of the radial network,

    u  = w ∘ D (x_j ⊕ x_i)                        gather, turn, scale                                       [K_r, 2C]
    a, s, h = SO2₁(u)                             features, gates, hidden message                           [K_r, H]
    z  = S2(h, s):  z_{l>0} = F silu(G h),  z_0 = silu(s)                   G [P, K_r] to the grid of P points, F back
    v  = SO2₂(z)                                                                                        [K_r, heads·V]

A grid takes ten times the memory of its coefficients, 20 to 80 kB per edge. So edges are computed in chunks whose
buffers stay in the cache, and only ρ, s, h and z are kept between forward and backward. The backward computes u and G h
again (three cheap products out of twelve), and then

    g_z = SO2₂^T g_v,    g_h = G^T (silu'(G h) ∘ F^T g_z),    g_s = silu'(s) ∘ g_z0,    g_u = SO2₁^T (g_a, g_s, g_h)
    g_w = g_u ∘ D (x_j ⊕ x_i),  summed over ±m;              g_x = D^T (w ∘ g_u),  summed over the edges of j and of i.

Weights get their gradients chunk by chunk. There is no gradient for D: batches whose positions require a gradient take
the reference path, and so do second derivatives.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from matscale.plugin import sphere
from matscale.plugins.eqv2.fast.derivative import first_derivative
from matscale.plugins.eqv2.fast.edges import Chunk, SortedEdges
from matscale.plugins.eqv2.fast.grid_products import folded, product, product_into
from matscale.plugins.eqv2.fast.sizes import AtOnce, EdgeFunctionSizes, keeps_turned
from matscale.plugins.eqv2.fast.so2 import Convolution


class FastEdgeFunction(torch.autograd.Function):
    """Edge function as an autograd function: values and attention features of edges, from coefficients of atoms.

    `x` is [n_atoms, K, C], ρ is [n_edges, width], values are [n_edges, K_r·heads·V].
    """

    @staticmethod
    def forward(
        ctx: Any,
        edges: SortedEdges,
        shape: EdgeFunctionSizes,
        x: Tensor,
        rho: Tensor,
        last: Tensor,
        last_bias: Tensor,
        keep: bool,
        n_first: int,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Compute values and features of all edges, chunk by chunk.

        `weights` are the `n_first` parameters of the first convolution (weight, bias, pairs), then the parameters of
        the second convolution.

        With `keep`, the tensors that the backward needs are kept; otherwise all chunks share one set of buffers.
        """
        work = _Work(edges, shape, x, last, last_bias, weights, n_first)
        n_edges = edges.edges.into_frame.shape[0]
        extra, values = (x.new_empty(n_edges, width) for width in (work.first.n_extra, work.second.out.width))
        kept = [x.new_empty(n_edges if keep else 0, n, shape.hidden) for n in (work.n_kept, work.n_used)]
        kept.append(x.new_empty(n_edges if keep and keeps_turned(work.columns.width, x) else 0, work.columns.width))
        # A kept tensor is written into its rows of this chunk; others use the same buffer for every chunk.
        for chunk in work.chunks:
            e, n = chunk.edges, chunk.n_edges
            names = ("hidden", "curved", "turned")
            hidden, curved, turned = (
                every[e] if len(every) else work.buffer(name, n, *every.shape[1:]) for name, every in zip(names, kept)
            )
            work.turn(chunk, x, out=turned)
            # If rotated coefficients are kept, scaling must not overwrite them.
            u = work.buffer("u", n, work.columns.width) if len(kept[2]) else turned
            work.scale(turned, work.factors(rho[e]), out=u)
            work.first.forward(u, hidden.flatten(1), extra[e])
            work.activate(hidden, extra[e, shape.n_features :], curved, work.passage(chunk))
            work.second.forward(curved.flatten(1), values[e])
        ctx.edges, ctx.shape, ctx.n_first = edges, shape, n_first
        ctx.save_for_backward(x, rho, extra, *kept, last, last_bias, *weights)
        return values, extra[:, : shape.n_features]

    @staticmethod
    @first_derivative
    def backward(ctx: Any, g_values: Tensor, g_features: Tensor) -> tuple[Tensor | None, ...]:
        x, rho, extra, hidden, curved, every_turned, last, last_bias, *weights = ctx.saved_tensors
        shape = ctx.shape
        work = _Work(ctx.edges, shape, x, last, last_bias, weights, ctx.n_first)
        work.first.start_backward()
        work.second.start_backward()
        g_sources, g_rho = x.new_zeros(*x.shape[:2], 2 * x.shape[2]), torch.empty_like(rho)
        # Sources of a chunk occur in other chunks too, so their sums start at zero; each target is in one chunk only.
        g_targets = x.new_empty(ctx.edges.n_targets, *g_sources.shape[1:])
        g_last, g_last_bias = torch.zeros_like(last), torch.zeros_like(last_bias)
        for chunk in work.chunks:
            e = chunk.edges
            g_curved = work.buffer("g_curved", chunk.n_edges, *curved.shape[1:])
            g_extra = work.buffer("g_extra", chunk.n_edges, extra.shape[1])
            work.second.backward(g_values[e], curved[e].flatten(1), g_curved.flatten(1))
            g_extra[:, : shape.n_features] = g_features[e]
            gates = extra[e, shape.n_features :]
            g_gates = g_extra[:, shape.n_features :]
            g_hidden = work.activate_backward(hidden[e], gates, g_curved, g_gates, work.passage(chunk))
            u, g_u, turned = (work.buffer(name, chunk.n_edges, work.columns.width) for name in ("u", "g_u", "turned"))
            if len(every_turned):
                turned = every_turned[e]
            else:
                work.turn(chunk, x, out=turned)
            factors = work.factors(rho[e])  # computed again, since they would take as much memory as `turned`
            work.scale(turned, factors, out=u)
            work.first.backward(g_hidden.flatten(1), u, g_u, g_extra)
            # `turned` is needed unscaled for the factors, and g_u is scaled in place only afterwards.
            g_factors = work.factors_backward(turned, g_u)
            work.turn_backward(chunk, work.scale(g_u, factors, out=g_u), g_sources, g_targets)
            torch.mm(g_factors, last, out=g_rho[e])
            g_last.addmm_(g_factors.T, rho[e])
            g_last_bias += g_factors.sum(0)
        # The first half of the channels belongs to sources j, the second to targets i.
        g_x = g_sources[:, :, : x.shape[2]] + ctx.edges.atoms(g_targets[:, :, x.shape[2] :])
        gradients = work.first.gradients() + work.second.gradients()
        return None, None, g_x, g_rho, g_last, g_last_bias, None, None, *gradients


class _Work:
    """Steps of forward and backward on one chunk, and the buffers that all chunks share."""

    def __init__(
        self,
        edges: SortedEdges,
        shape: EdgeFunctionSizes,
        x: Tensor,
        last: Tensor,
        last_bias: Tensor,
        weights: tuple[Tensor, ...] | list[Tensor],
        n_first: int,
    ) -> None:
        self.edges, self.shape, self.last, self.last_bias = edges, shape, last, last_bias
        n_extra = shape.n_features + shape.hidden
        self.first = Convolution(weights[0], weights[1], list(weights[2:n_first]), n_extra)
        self.second = Convolution(weights[n_first], weights[n_first + 1], list(weights[n_first + 2 :]))
        self.at_once = AtOnce.of(edges, shape, x)
        self.chunks = edges.chunks(self.at_once.chunk)
        self.to_grid, self.from_grid = (g.to(x.dtype) for g in (shape.grid.to_grid, shape.grid.from_grid))
        # l = 0 from the grid is replaced, and a head that uses few orders needs no others.
        self.n_used = self.second.into.width // shape.hidden
        self.columns, self.n_kept = self.first.into, edges.edges.into_frame.shape[1]
        ends = list(accumulate(n * 2 * shape.channels for n in shape.n_degrees))
        self.places = [slice(start, end) for start, end in zip([0, *ends], ends)]  # of the factors of each m
        self.like, self.buffers = x, dict[str, Tensor]()
        self.most_edges = max(chunk.n_edges for chunk in self.chunks)

    def buffer(self, name: str, n: int, *shape: int) -> Tensor:
        """Buffer of [n, *shape] for n edges of a chunk; the same for every chunk."""
        if name not in self.buffers:
            self.buffers[name] = self.like.new_empty(self.most_edges, *shape)
        return self.buffers[name][:n]

    def turn(self, chunk: Chunk, x: Tensor, out: Tensor) -> None:
        """Rotate the coefficients of both atoms of an edge into the frame of the edge, to `out` [n, K_r·2C]."""
        rows = x.flatten(0, 1)
        for part, some in chunk.parts(self.at_once.turn):
            pair = self.buffer("pair", some.n_edges, x.shape[1], 2 * x.shape[2])
            torch.index_select(rows, 0, self.edges.pairs[some.edges].flatten(), out=pair.view(-1, x.shape[2]))
            d = self.edges.edges.into_frame[some.edges]
            torch.bmm(d, pair, out=out[part].view(some.n_edges, self.n_kept, -1))

    def turn_backward(self, chunk: Chunk, g: Tensor, g_sources: Tensor, g_targets: Tensor) -> None:
        """Rotate gradients `g` back, add them to the sums of their sources, and write the sums of the targets.

        Both sums are [.., K, 2C], of which only one half is used: adding whole rows is faster than adding halves.
        """
        for part, some in chunk.parts(self.at_once.turn):
            d = self.edges.edges.into_frame[some.edges].transpose(1, 2)
            g_pair = self.buffer("pair", some.n_edges, *g_sources.shape[1:])
            torch.bmm(d, g[part].view(some.n_edges, self.n_kept, -1), out=g_pair)
            g_sources.index_add_(0, self.edges.edges.source[some.edges], g_pair)
            for block in some.blocks:
                start = block.first_edge - some.edges.start
                per_atom = g_pair[start : start + block.n_edges].unflatten(0, (block.n_atoms, block.degree))
                torch.sum(per_atom, dim=1, out=g_targets[block.atoms])

    def factors(self, rho: Tensor) -> Tensor:
        """Radial factors w [n, Σ_m K_m·2C] from ρ [n, width], for K_m coefficients of each order m."""
        out = self.buffer("factors", rho.shape[0], self.places[-1].stop)
        return torch.addmm(self.last_bias, rho, self.last.T, out=out)

    def scale(self, x: Tensor, w: Tensor, out: Tensor) -> Tensor:
        """Multiply `x` [n, K_r·2C] by `w`, with the same factor for +m and −m; write to `out`, which may be `x`."""
        torch.mul(x[:, self.columns.zero], w[:, self.places[0]], out=out[:, self.columns.zero])
        for pair, place in zip(self.columns.pairs, self.places[1:]):
            x_m, out_m = (tensor[:, pair].unflatten(1, (2, -1)) for tensor in (x, out))
            torch.mul(x_m, w[:, None, place], out=out_m)
        return out

    def factors_backward(self, x: Tensor, g_u: Tensor) -> Tensor:
        """Gradient of the factors [n, Σ_m K_m·2C], a sum over ±m, since a factor multiplies both coefficients."""
        g_w, columns = self.buffer("g_factors", g_u.shape[0], self.places[-1].stop), self.columns
        torch.mul(x[:, columns.zero], g_u[:, columns.zero], out=g_w[:, self.places[0]])
        for plus, minus, place in zip(columns.plus, columns.minus, self.places[1:]):
            torch.mul(x[:, plus], g_u[:, plus], out=g_w[:, place]).addcmul_(x[:, minus], g_u[:, minus])
        return g_w

    def on_grid(self, name: str, table: Tensor, x: Tensor) -> Tensor:
        """Values on the grid: `table` [P, K] times each matrix in `x` [n, K, H], in the layout of `product`."""
        if name not in self.buffers:
            self.buffers[name] = self.like.new_empty(self.at_once.grid, table.shape[0], x.shape[2])
        return product(table, folded(x), room=self.buffers[name])

    def passage(self, chunk: Chunk) -> sphere.Passage | None:
        """Edges of the chunk whose activation is a mean over both charts (`charts`)."""
        passage = self.edges.edges.passage
        return None if passage is None else passage.within(chunk.edges)

    def activate(self, hidden: Tensor, gates: Tensor, curved: Tensor, passage: sphere.Passage | None) -> None:
        """Apply the activation to `hidden` [n, K_r, H] and `gates` [n, H]; written to `curved` [n, n_used, H]."""
        self._silu(hidden, curved)
        if passage is not None:
            e, u = passage.edges, passage.share[:, None, None]
            other = curved.new_empty(len(e), *curved.shape[1:])
            self._silu(passage.turned(hidden[e]), other)
            curved[e] = torch.lerp(curved[e], passage.turned_back(other), u)
        curved[:, 0] = torch.nn.functional.silu(gates)

    def _silu(self, hidden: Tensor, curved: Tensor) -> None:
        from_grid = self.from_grid[: self.n_used]
        for h, out in zip(hidden.split(self.at_once.grid), curved.split(self.at_once.grid)):
            grid = self.on_grid("grid", self.to_grid, h)
            torch.nn.functional.silu(grid, inplace=True)
            product_into(from_grid, grid, out)

    def activate_backward(
        self, hidden: Tensor, gates: Tensor, g_curved: Tensor, g_gates: Tensor, passage: sphere.Passage | None
    ) -> Tensor:
        """Return the gradient of `hidden`; that of `gates` is written to `g_gates`."""
        g_hidden = self.buffer("g_hidden", *hidden.shape)
        self._silu_backward(hidden, g_curved, g_hidden)
        if passage is not None:
            e, u = passage.edges, passage.share[:, None, None]
            other = g_hidden.new_empty(len(e), *g_hidden.shape[1:])
            self._silu_backward(passage.turned(hidden[e]), passage.turned(g_curved[e]), other)
            g_hidden[e] = torch.lerp(g_hidden[e], passage.turned_back(other), u)
        g_gates.copy_(torch.ops.aten.silu_backward(g_curved[:, 0], gates))
        return g_hidden

    def _silu_backward(self, hidden: Tensor, g_curved: Tensor, g_hidden: Tensor) -> None:
        back = self.to_grid.T
        parts = (hidden, g_curved[:, 1:], g_hidden)
        for h, g, g_h in zip(*(part.split(self.at_once.grid) for part in parts)):
            grid = self.on_grid("grid", self.to_grid, h)
            g_grid = self.on_grid("g_grid", self.from_grid[1 : self.n_used].T, g)
            torch.ops.aten.silu_backward.grad_input(g_grid, grid, grad_input=g_grid)
            product_into(back, g_grid, g_h)
