r"""Sums over angles between the edges of an atom, without a list of triplets.

    S_{ca, l} = Σ_{b ≠ c} Y_l(cos ∠cab) x_ba          Y_l(z) = √((2l + 1)/4π) P_l(z),  l < L

Atoms with equally many edges (K incoming, D outgoing) form a block. Their angles are one array [n, K, D, L], the same
for all layers, and the sum over b is a batched product

    [n, D·L, K] @ [n, K, C] -> [n, D·L, C]

without gathers or scatters. The array is zero where c and b are the same image of an atom.

If a batch has few angles, the array is kept for all layers; otherwise it is computed again for each piece of atoms in
each layer, forward and backward, so that memory stays bounded (`KEPT`, `AT_ONCE`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from matscale.plugin import full_precision, is_reference_path_wanted

KEPT = 1 << 23
"""Largest number of angles of a batch for which polynomials are kept: 235 MB in float32 for seven polynomials."""
AT_ONCE = 1 << 20
"""Number of angles that are computed at a time if they are not kept."""


class Piece(NamedTuple):
    """Piece of a batch: `n` consecutive atoms that all have the same numbers of edges of two kinds."""

    n: int
    n_in: int
    """K, number of edges of the first kind of each atom."""
    n_out: int
    """D, number of edges of the second kind of each atom."""


def pieces_of(n_in: Tensor, n_out: Tensor, at_most: int) -> list[Piece]:
    """Divide atoms into pieces, from their numbers of edges of both kinds (each [n_atoms], in the order of the edges).

    Atoms without edges are left out. A piece has at most `at_most` angles, or one atom.
    """
    pairs, counts = torch.unique_consecutive(torch.stack([n_in, n_out], 1), dim=0, return_counts=True)
    pieces = []
    for (k, d), n in zip(pairs.tolist(), counts.tolist()):
        step = max(1, at_most // max(k * d, 1))
        pieces += [Piece(min(step, n - start), k, d) for start in range(0, n if k or d else 0, step)]
    return pieces


def legendre(z: Tensor, n: int) -> Tensor:
    """Legendre polynomials Y_l(z) for l = 0, ..., n − 1, by Bonnet's recursion: [..., n] for `z` [...]."""
    p = [torch.ones_like(z), z]
    for k in range(2, n):
        p.append(((2 * k - 1) * z * p[k - 1] - (k - 1) * p[k - 2]) / k)
    return torch.stack([math.sqrt((2 * k + 1) / (4 * math.pi)) * p[k] for k in range(n)], dim=-1)


@dataclass(frozen=True)
class Ends:
    """Edges of one kind, seen from the atom at the vertex of the angles."""

    unit: Tensor
    """[n, 3] unit vectors from the atom to its neighbours."""
    image: Tensor
    """[n] number of the neighbour, from `Links.image`."""
    degree: Tensor
    """[n_atoms] number of edges of each atom, with atoms in the order of the edges."""


class Angles:
    """Angles between incoming edges, whose features are summed, and outgoing edges, which receive the sums."""

    def __init__(self, ins: Ends, outs: Ends, n_spherical: int) -> None:
        self.n_spherical = n_spherical
        self.n_angles = int((ins.degree * outs.degree).sum())
        self.are_kept = self.n_angles <= KEPT or is_reference_path_wanted()
        self.pieces = pieces_of(ins.degree, outs.degree, self.n_angles if self.are_kept else AT_ONCE)
        # Split once, since the backward of each slice would fill a tensor of the full size.
        self.n_ins, self.n_outs = [p.n * p.n_in for p in self.pieces], [p.n * p.n_out for p in self.pieces]
        units = zip(ins.unit.split(self.n_ins), outs.unit.split(self.n_outs))
        images = zip(ins.image.split(self.n_ins), outs.image.split(self.n_outs))
        self._geometry = [(*u, *i) for u, i in zip(units, images)]
        self._tables = [self.table(p, *g) for p, g in zip(self.pieces, self._geometry)] if self.are_kept else []

    @full_precision
    def table(self, piece: Piece, u: Tensor, v: Tensor, here: Tensor, there: Tensor) -> Tensor:
        """Polynomials [n, K, D, L] of the angles in a piece, for K incoming and D outgoing edges of each of n atoms.

        `u` and `v` are unit vectors, `here` and `there` image numbers, of incoming and outgoing edges.
        """
        n, k, d = piece
        same = here.view(n, k, 1) == there.view(n, 1, d)
        z = u.view(n, k, 3) @ v.view(n, d, 3).transpose(1, 2)
        return legendre(z, self.n_spherical).masked_fill(same[..., None], 0.0)

    def sums(self, x: Tensor) -> Tensor:
        """Sum the features `x` [n_ins, C] of incoming edges for each outgoing edge; returns [n_outs, L, C]."""
        channels = x.shape[1]

        def product(table: Tensor, piece: Piece, part: Tensor) -> Tensor:
            out = table.flatten(2).transpose(1, 2) @ part.view(piece.n, piece.n_in, channels)
            return out.view(piece.n * piece.n_out, self.n_spherical, channels)

        return _cat(self._over_pieces(product, x.split(self.n_ins)), x, self.n_spherical, channels)

    def contracted(self, weights: Tensor) -> Tensor:
        """Multiply polynomials by `weights` [n_outs, I, L] and sum over outgoing edges and l; returns [n_ins, I].

        The result is used in sums that end at the atom:

        G_{ba, i} = Σ_{c, l} w_{ca, i, l} Y_l(cos ∠cab); Σ_b G_ba x_ba is then the double sum over b and c.
        """
        n_i = weights.shape[1]

        def product(table: Tensor, piece: Piece, part: Tensor) -> Tensor:
            n, k, d = piece
            part = part.view(n, d, n_i, self.n_spherical).transpose(2, 3).reshape(n, d * self.n_spherical, n_i)
            return (table.flatten(2) @ part).view(n * k, n_i)

        return _cat(self._over_pieces(product, weights.split(self.n_outs)), weights, n_i)

    def _over_pieces(self, product: Callable[..., Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
        """Run `product(table, piece, part)` for each piece.

        Tables that are not kept are computed again, twice in training.
        """
        if self.are_kept:
            return [product(*each) for each in zip(self._tables, self.pieces, parts)]

        def anew(piece: Piece, part: Tensor, *geometry: Tensor) -> Tensor:
            return product(self.table(piece, *geometry), piece, part)

        rows = zip(self.pieces, parts, self._geometry)
        return [checkpoint(anew, piece, part, *geometry, use_reentrant=False) for piece, part, geometry in rows]


def neighbor_products(weights: Tensor, x: Tensor, degree: Tensor) -> Tensor:
    """Sum w ⊗ x over the edges of each atom: [n_atoms, I, C] for weights w [n, I] and `x` [n, C] of n edges.

    `degree` [n_atoms] is the number of edges of each atom. Atoms are in the order of their edges.
    """
    n_i, channels = weights.shape[1], x.shape[1]
    pieces = pieces_of(degree, torch.ones_like(degree), x.shape[0] + 1)
    sizes = [piece.n * piece.n_in for piece in pieces]
    rows = zip(pieces, weights.split(sizes), x.split(sizes))
    parts = [w.view(p.n, p.n_in, n_i).transpose(1, 2) @ y.view(p.n, p.n_in, channels) for p, w, y in rows]
    return _cat(parts, x, n_i, channels)


def _cat(parts: list[Tensor], like: Tensor, *shape: int) -> Tensor:
    return torch.cat(parts) if parts else like.new_zeros(0, *shape)
