"""Linear maps by degree and first layers of radial networks, in as few matrix products as possible."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from matscale.plugin import sphere


def linear_at(layers: nn.Sequential | nn.ModuleList, place: int) -> nn.Linear:
    """Return the layer at index `place`, which has to be linear."""
    layer = layers[place]
    assert isinstance(layer, nn.Linear)
    return layer


def by_degree(x: Tensor) -> list[Tensor]:
    """Split coefficients `x` [n, K, C] by degree l: one tensor [n, 2l+1, C] for each l."""
    lmax = round(x.shape[1] ** 0.5) - 1
    return list(x.split([2 * degree + 1 for degree in range(lmax + 1)], dim=1))


def so3_linear(parts: list[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a linear map to each degree: returns [n, K, n_out] for the result `parts` of `by_degree`.

    `weight` [lmax+1, n_out, n_in] has a matrix for each degree, `bias` [n_out] is added for l = 0.
    """
    linear = nn.functional.linear
    out = [linear(part, w) for part, w in zip(parts[1:], weight[1:])]
    return torch.cat([linear(parts[0], weight[0], bias), *out], dim=1)


def radial_features(networks: list[sphere.RadialNetwork], edges: sphere.Edges) -> list[Tensor]:
    """Radial features ρ [n_edges, width] of each network: the output of all its layers except the last.

    The first layers of all networks are computed as one product with the Gaussians. The part of these layers that
    depends on elements is a table. Therefore the product needs no copies of the Gaussians, and no gradients of columns
    without parameters.
    """
    width = linear_at(networks[0].net, 0).out_features
    firsts = [linear_at(net.net, 0).weight.split([edges.basis.shape[1], width, width], dim=1) for net in networks]
    source, target = (
        torch.cat([getattr(net, side).weight @ first[place].T for net, first in zip(networks, firsts)], dim=1)
        for place, side in ((1, "source"), (2, "target"))
    )
    weight, bias = (
        torch.cat([first[0] for first in firsts]),
        torch.cat([linear_at(net.net, 0).bias for net in networks]),
    )
    linear = nn.functional.linear(edges.basis, weight, bias)
    lookup = nn.functional.embedding
    linear = linear + lookup(edges.source_element, source) + lookup(edges.target_element, target)
    rests: list[nn.Sequential] = [nn.Sequential(*list(net.net)[1:-1]) for net in networks]
    return [rest(part) for rest, part in zip(rests, linear.split(width, dim=1))]
