"""Graph attention on sorted edges: the forward of `GraphAttention`, and the part of it that the force head needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from matscale.plugin import sphere
from matscale.plugins.eqv2.attention import EdgeFunction, GraphAttention
from matscale.plugins.eqv2.fast.derivative import first_derivative
from matscale.plugins.eqv2.fast.edge_function import FastEdgeFunction
from matscale.plugins.eqv2.fast.edges import SortedEdges
from matscale.plugins.eqv2.fast.linear import by_degree, linear_at, so3_linear
from matscale.plugins.eqv2.fast.sizes import EdgeFunctionSizes, chunk_of


def attention(module: GraphAttention, x: Tensor, rho: Tensor, edges: SortedEdges, grid: sphere.SphereGrid) -> Tensor:
    """Forward pass of `GraphAttention`: computes coefficients [n_atoms, K, n_out].

    `x` [n_atoms, K, C] has K coefficients with C channels for each atom, `rho` [n_edges, width] the radial features.
    """
    second = parameters(module.edge_function.conv2)
    values, features = edge_values(module.edge_function, second, x, rho, edges, grid)
    alpha = attention_weights(module, features, edges)
    channels = module.edge_function.conv2.n_out
    alpha = alpha[:, :, None].expand(-1, -1, channels // module.heads).reshape(-1, channels)
    summed = WeightedSum.apply(edges, values.unflatten(1, (-1, channels)), alpha)
    return so3_linear(by_degree(edges.atoms(summed)), module.project.weight, module.project.bias)


def forces(module: GraphAttention, x: Tensor, rho: Tensor, edges: SortedEdges, grid: sphere.SphereGrid) -> Tensor:
    """Forces [n_atoms, 3]: the l = 1 output of the attention layer in the head of the forces.

    The projection of l = 1 acts on the channels of a head, which share one attention weight. Therefore the projection
    commutes with the sum over edges and is merged into the second convolution, which then has one output per head and
    only the orders |m| ≤ 1.
    """
    second = _folded(module)
    values, features = edge_values(module.edge_function, second, x, rho, edges, grid)
    alpha = attention_weights(module, features, edges)
    vectors = (values.unflatten(1, (-1, module.heads)) * alpha[:, None]).sum(2)  # [n_edges, m = 0, ±1]
    conv = module.edge_function.conv2
    m0, m1 = conv.n_degrees[0], conv.n_degrees[1] if len(conv.n_degrees) > 1 else 0
    rows = [1, m0, m0 + m1] if m1 else [1]
    turned = torch.einsum("ek,eka->ea", vectors, edges.edges.into_frame[:, rows, 1:4])
    summed = torch.cat([block.sum(1) for (block,) in edges.per_target(turned)])
    return edges.atoms(summed) * edges.rescale[1]


def _folded(module: GraphAttention) -> list[Tensor]:
    conv, projection = module.edge_function.conv2, module.project.weight[1].view(module.heads, -1)

    def fold(rows: Tensor) -> Tensor:
        """Merge the projection into rows of weights, [heads·V, ...], which become [heads, ...]."""
        return (projection[:, :, None] * rows.reshape(module.heads, projection.shape[1], -1)).sum(1)

    n = conv.n_out
    zero = [fold(conv.m0.weight[n : 2 * n]), fold(conv.m0.bias[n : 2 * n]).squeeze(1)]
    return zero + [torch.cat([fold(half[:n]) for half in pair.chunk(2)]) for pair in parameters(conv)[2:3]]


def parameters(conv: sphere.SO2Convolution) -> list[Tensor]:
    """Parameters of a convolution: weight and bias of m = 0, weights of m > 0."""
    return [conv.m0.weight, conv.m0.bias, *(linear_at(conv.m, m).weight for m in range(len(conv.m)))]


def edge_values(
    function: EdgeFunction, second: list[Tensor], x: Tensor, rho: Tensor, edges: SortedEdges, grid: sphere.SphereGrid
) -> tuple[Tensor, Tensor]:
    """Values [n_edges, outputs of the second convolution] and features [n_edges, heads·A] of the edges.

    `second` are the parameters of the second convolution: those of `function`, or those into which the projection of
    the force head is merged.
    """
    conv, last = function.conv1, linear_at(function.radial.net, -1)
    shape = EdgeFunctionSizes(conv.n_degrees, x.shape[2], conv.n_out, function.n_features, grid)
    first = parameters(conv)
    values, features = FastEdgeFunction.apply(
        edges, shape, x, rho, last.weight, last.bias, torch.is_grad_enabled(), len(first), *first, *second
    )
    return values, features


def attention_weights(module: GraphAttention, features: Tensor, edges: SortedEdges) -> Tensor:
    """Attention weights [n_edges, heads] from `features` [n_edges, heads·A], A per head, as by `Edges.softmax`.

    In training, dropout is applied to the weights.
    """
    curved = sphere.smooth_leaky(module.alpha_norm(features.unflatten(1, (module.heads, -1))))
    logits = (curved * module.alpha_dot).sum(-1)
    envelope = edges.edges.envelope
    if envelope is None:
        weights = torch.cat([block.softmax(1).flatten(0, 1) for (block,) in edges.per_target(logits)])
    else:
        blocks = edges.per_target(logits, envelope[:, None])
        weights = torch.cat([_fading_softmax(*block).flatten(0, 1) for block in blocks])
    drop = module.alpha_drop
    if drop.training and drop.p:  # drawn in the order of the batch, as on the reference path
        weights = weights * edges.sort(drop(torch.ones_like(weights)))
    return weights


def _fading_softmax(logits: Tensor, envelope: Tensor) -> Tensor:
    """Softmax with envelope over dimension 1, f² e^a / Σ f e^a: `Edges.softmax`."""
    share = torch.exp(logits - logits.detach().amax(1, keepdim=True)) * envelope
    return share / (share.sum(1, keepdim=True) + 1e-16) * envelope


class WeightedSum(torch.autograd.Function):
    """Weighted sum Σ_{e -> i} D_e^T (α_e ∘ v_e) over the edges of each atom, [n_targets, K, c].

    `values` v are [n_edges, K_r, c], `alpha` α is [n_edges, c], and D_e rotates into the frame of edge e.

    The factor that rescales degrees beyond mmax is the same for all edges, so it is applied to the sum.
    """

    @staticmethod
    def forward(ctx: Any, edges: SortedEdges, values: Tensor, alpha: Tensor) -> Tensor:
        d = edges.edges.into_frame
        out = values.new_empty(edges.n_targets, d.shape[2], values.shape[2])
        for chunk in edges.chunks(chunk_of(len(values), values)):
            for b in chunk.blocks:
                weighted = (values[b.edges] * alpha[b.edges, None]).view(b.n_atoms, -1, values.shape[2])
                torch.bmm(d[b.edges].view(b.n_atoms, -1, d.shape[2]).transpose(1, 2), weighted, out=out[b.atoms])
        ctx.edges = edges
        ctx.save_for_backward(values, alpha)
        return out.mul_(edges.rescale[:, None])

    @staticmethod
    @first_derivative
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        values, alpha = ctx.saved_tensors
        edges = ctx.edges
        d, g = edges.edges.into_frame, g * edges.rescale[:, None]
        g_values, g_alpha = torch.empty_like(values), torch.empty_like(alpha)
        for chunk in edges.chunks(chunk_of(len(values), values)):
            for b in chunk.blocks:
                g_weighted = torch.bmm(d[b.edges].view(b.n_atoms, -1, d.shape[2]), g[b.atoms]).view_as(values[b.edges])
                torch.mul(g_weighted, alpha[b.edges, None], out=g_values[b.edges])
                torch.sum(g_weighted.mul_(values[b.edges]), dim=1, out=g_alpha[b.edges])
        return None, g_values, g_alpha


def edge_degree(module: sphere.EdgeDegree, rho: Tensor, edges: SortedEdges) -> Tensor:
    """Edge-degree embedding [n_atoms, K, C]: Σ_{e -> i} D_e^T w_e / mean_degree, with weights w for m = 0 only."""
    weights = linear_at(module.radial.net, -1)(rho).unflatten(1, (module.n_degrees, -1))
    if edges.edges.envelope is not None:
        weights = weights * edges.edges.envelope[:, None, None]
    d = edges.edges.into_frame[:, : module.n_degrees]
    blocks = [d.flatten(1, 2).transpose(1, 2) @ w.flatten(1, 2) for d, w in edges.per_target(d, weights)]
    return edges.atoms(torch.cat(blocks) * edges.rescale[:, None]) / module.mean_degree
