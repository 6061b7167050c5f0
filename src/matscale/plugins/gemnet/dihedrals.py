r"""Sums over dihedral angles c, a, b, d between edges c → a and d → b, with a middle edge b → a.

    S_{ca, l, m} = Σ_b Y_l(cos ∠cab) Σ_d Y_m(cos θ_cabd) x_{dba}          a ≠ d, b ≠ c, c ≠ d (as images)

The two sums are made one after the other, so that a quadruplet takes one product for each m rather than for each (l,
m): the inner sum is a batched product [D_a·M, D_b] @ [D_b, C] for each middle edge b → a, the outer one a product [L,
K] @ [K, M·C] for each edge c → a with its K middle edges.

The dihedral is undefined if c, a, b or a, b, d lie on a line. Its cosine is computed as p·q/√(|p|²|q|² + ε²), with the
cross products p and q of the edges with the middle one. It is zero on such a line and changes within an angle of ε. It
is therefore continuous, but too steep for smooth forces.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from matscale.plugin import LinearRows, full_precision, is_reference_path_wanted
from matscale.plugins.gemnet.angles import legendre, neighbor_products
from matscale.plugins.gemnet.links import Links

KEPT = 1 << 23
"""Largest number of dihedrals of a batch for which polynomials are kept: 235 MB in float32 for seven polynomials."""
AT_ONCE = 1 << 20
"""Number of dihedrals that are computed at a time if they are not kept."""
EPSILON = 1e-6
"""Sine of the angle to a line (ε) below which a dihedral's weight vanishes; it exceeds rounding errors of float32."""


class Group(NamedTuple):
    """Group of middle edges b → a with the same numbers of edges at their ends: D_a edges end at a, and D_b at b."""

    middle: Tensor
    """[g] indices of the middle edges."""
    outs: Tensor
    """[g, D_a] indices of the edges c → a."""
    ins: Tensor
    """[g, D_b] indices of the edges d → b."""


class Dihedrals:
    """Quadruplets of a batch.

    `edges` are sorted by target, in any order of the atoms; `middle` edges need not be sorted.

    An in-triplet d, b, a is listed for each middle edge and each edge that ends at b. `ins` and `ins_middle` are the
    indices of these two edges; `in_edges` gathers the features of edges `ins`.
    """

    def __init__(self, edges: Links, middle: Links, span: int, n_spherical: int) -> None:
        self.n_spherical = n_spherical
        degree = edges.degree
        pairs = degree[middle.target] * degree[middle.source]  # of edges, by middle edge
        self.n_dihedrals = int(pairs.sum())
        self.are_kept = self.n_dihedrals <= KEPT or is_reference_path_wanted()
        self.groups = _groups(edges, middle, self.n_dihedrals if self.are_kept else AT_ONCE)
        self.ins = _flat([group.ins for group in self.groups], middle)
        self.ins_middle = _flat([g.middle[:, None].expand_as(g.ins) for g in self.groups], middle)
        outs = _flat([group.outs for group in self.groups], middle)
        outs_middle = _flat([g.middle[:, None].expand_as(g.outs) for g in self.groups], middle)
        self.cos_in = (middle.unit[self.ins_middle] * edges.unit[self.ins]).sum(1)
        self._geometry = [_at(group, edges, middle, span) for group in self.groups]
        self._tables = [self.table(*geometry) for geometry in self._geometry] if self.are_kept else []
        # The sum over middle edges: out-triplets in the order of their edges c → a.
        order = outs.sort(stable=True)[1]
        outs, outs_middle = outs[order], outs_middle[order]
        same = edges.image(span)[outs] == middle.image(span)[outs_middle]
        cos_out = (edges.unit[outs] * middle.unit[outs_middle]).sum(1)
        self._by_edge, self._out_degree = (
            LinearRows.gathered(order, len(order)),
            torch.bincount(outs, minlength=edges.n),
        )
        self.in_edges = LinearRows.gathered(self.ins, edges.n)
        self._out_table = legendre(cos_out, n_spherical).masked_fill(same[:, None], 0.0)  # [n_out, L]

    @full_precision
    def table(self, p: Tensor, q: Tensor, excluded: Tensor) -> Tensor:
        """Polynomials [g, D_b, D_a, M] of the dihedrals of g middle edges.

        `p` [g, D_a, 3] and `q` [g, D_b, 3] are cross products of edges with the middle edges.
        """
        squares = q.square().sum(2)[:, :, None] * p.square().sum(2)[:, None, :]
        cosine = q @ p.transpose(1, 2) * torch.rsqrt(squares + EPSILON**2)
        return legendre(cosine, self.n_spherical).masked_fill(excluded[..., None], 0.0)

    def sums(self, x: Tensor) -> Tensor:
        """Sum the features `x` [n_in, C] of in-triplets for each edge; returns [n_edges, L·M, C]."""
        channels, parts = x.shape[1], x.split([group.ins.numel() for group in self.groups])
        inner = [self._inner(k, part) for k, part in enumerate(parts)]
        z = torch.cat(inner) if inner else x.new_zeros(0, self.n_spherical * channels)
        found = neighbor_products(self._out_table, self._by_edge(z), self._out_degree)
        return found.view(found.shape[0], self.n_spherical**2, channels)

    def _inner(self, k: int, part: Tensor) -> Tensor:
        """Sum over d for group `k`; returns [g·D_a, M·C]."""
        (g, d_b), d_a = self.groups[k].ins.shape, self.groups[k].outs.shape[1]

        def product(table: Tensor, x: Tensor) -> Tensor:
            out = table.flatten(2).transpose(1, 2) @ x.view(g, d_b, x.shape[1])
            return out.view(g * d_a, self.n_spherical * x.shape[1])

        if self.are_kept:
            return product(self._tables[k], part)
        anew = lambda x, *geometry: product(self.table(*geometry), x)  # noqa: E731
        out: Tensor = checkpoint(anew, part, *self._geometry[k], use_reentrant=False)
        return out


def _groups(edges: Links, middle: Links, at_most: int) -> list[Group]:
    """Divide middle edges into groups of at most `at_most` dihedrals; those without dihedrals are left out."""
    degree = edges.degree
    first = _first(edges, degree)
    keys = torch.stack([degree[middle.target], degree[middle.source]], 1)  # [n, 2]
    kinds, kind, counts = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)
    members = kind.sort(stable=True)[1].split(counts.tolist())
    groups = []
    for (d_a, d_b), same in zip(kinds.tolist(), members):
        if d_a * d_b == 0:
            continue
        for part in same.split(max(1, at_most // (d_a * d_b))):
            outs = first[middle.target[part]][:, None] + torch.arange(d_a, device=part.device)
            ins = first[middle.source[part]][:, None] + torch.arange(d_b, device=part.device)
            groups.append(Group(part, outs, ins))
    return groups


def _first(edges: Links, degree: Tensor) -> Tensor:
    """Index of the first edge of each atom [n_atoms]."""
    is_first = torch.ones_like(edges.target, dtype=torch.bool)
    is_first[1:] = edges.target[1:] != edges.target[:-1]
    places = is_first.nonzero().squeeze(1)
    return torch.zeros_like(degree).index_copy(0, edges.target[places], places)


def _at(group: Group, edges: Links, middle: Links, span: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cross products of edges c → a and d → b with the middle edges, [g, D_a, 3] and [g, D_b, 3].

    The third tensor [g, D_b, D_a] is true for pairs of edges that form no quadruplet.
    """
    axis = middle.unit[group.middle][:, None]
    p = torch.linalg.cross(edges.unit[group.outs], axis)
    q = torch.linalg.cross(edges.unit[group.ins], axis)
    image = edges.image(span)
    c = image[group.outs]
    d = image[group.ins] + middle.shift_code(span)[group.middle][:, None]  # relative to a
    a = middle.target[group.middle][:, None]
    return p, q, (d[:, :, None] == c[:, None, :]) | (d == a)[:, :, None]


def _flat(parts: list[Tensor], like: Links) -> Tensor:
    return torch.cat([part.flatten() for part in parts]) if parts else like.source.new_zeros(0)
