r"""Pairs of atoms: compute each filter once per distance, and sum filters over periodic images before products.

    Σ_{e of (i, j)} f_c(d_e) (L a_e + b) = L Σ_e f_c(d_e) a_e + b Σ_e f_c(d_e)            a_e = σ(L1 g(d_e))

An edge j -> i and its reverse have the same distance and the same filter: they form one bond. The second layer of a
filter is linear, so it can be applied to the sum over all images of a pair of atoms. In a crystal with few atoms, a
pair has many images. If every edge has its reverse, the sums of (i, j) and (j, i) are equal. This is exact; only the
order of sums changes.

FLOPs are counted for the published form, which has a filter for each edge.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from matscale.plugin import AtomicBatch, LinearRows, is_plain_wanted


@dataclass(frozen=True)
class Pairs:
    """Distances for which filters are computed, and the pairs of atoms whose filters are sums over these distances."""

    distance: Tensor
    """[n_bonds] length of each bond [Å]."""
    images: LinearRows | None
    """Map that sums over the bonds of a pair, from [n_bonds, C] to [n_pairs, C]; None if each pair has one bond."""
    filters: LinearRows | None
    """Map that gives each message the filter of its pair, [n_pairs, C] to [n_messages, C]; None for the identity."""
    sources: LinearRows
    """Map that gives each message the features of its source, from [n_atoms, C] to [n_messages, C]."""
    targets: LinearRows
    """Map that sums over the messages of an atom, from [n_messages, C] to [n_atoms, C]."""

    @classmethod
    def of(cls, data: AtomicBatch) -> Pairs:
        """Find pairs from the edges of a batch."""
        source, target = data.edges()
        if is_plain_wanted() or data.n_edges == 0:
            return cls(data.edge_distance(), None, None, *_messages(source, target, data.n_atoms))
        places, bond, pair, is_mutual = _bonds(data)
        distance = _only(data, places).edge_distance()
        if is_mutual:  # both directions of a pair have one filter, also for images of the same atom
            keys, pair = torch.unique_consecutive(pair, return_inverse=True)
            images = LinearRows.summed(pair, len(keys))
            both = torch.stack([keys, keys % data.n_atoms * data.n_atoms + keys // data.n_atoms]).flatten()
            both, order = both.sort()
            filters = LinearRows.gathered(order % len(keys), len(keys))
        else:
            both, pair = torch.unique(target * data.n_atoms + source, return_inverse=True)
            images, filters = LinearRows(pair, bond, len(both), len(places)), None
        return cls(distance, images, filters, *_messages(both % data.n_atoms, both // data.n_atoms, data.n_atoms))

    def summed(self, x: Tensor) -> Tensor:
        """Sum `x` [n_bonds, C] over the images of each pair; returns [n_pairs, C]."""
        return x if self.images is None else self.images(x)

    def convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        """Sum Σ_j weight_ij ∘ x_j over neighbours: [n_atoms, C] for `x` [n_atoms, C] and `weight` [n_pairs, C]."""
        weight = weight if self.filters is None else self.filters(weight)
        return self.targets(self.sources(x) * weight)  # in half precision, more precise than x


def _messages(source: Tensor, target: Tensor, n_atoms: int) -> tuple[LinearRows, LinearRows]:
    return LinearRows.gathered(source, n_atoms), LinearRows.summed(target, n_atoms)


def _only(data: AtomicBatch, places: Tensor) -> AtomicBatch:
    index, shift = data.edge_index, data.edge_shift
    assert index is not None
    assert shift is not None
    return replace(data, edge_index=index.index_select(1, places), edge_shift=shift.index_select(0, places))


def _bonds(data: AtomicBatch) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Find the bonds, that is edges without direction.

    Returns one edge of each bond [n_bonds]; the bond of each edge [n_edges]; the pair of each bond, ascending, as
    larger · n_atoms + smaller index; and whether each bond has one edge in both directions.
    """
    source, target = data.edges()
    assert data.edge_shift is not None
    shift = data.edge_shift.long()
    base = 2 * int(shift.abs().max()) + 1  # numbers of images do not clash
    image = (shift[:, 0] * base + shift[:, 1]) * base + shift[:, 2]
    is_reverse = (source > target) | ((source == target) & (image > 0))
    larger, smaller = torch.maximum(source, target), torch.minimum(source, target)
    codes = (larger * data.n_atoms + smaller) * base**3 + torch.where(is_reverse, -image, image)
    codes, bond, counts = torch.unique(codes, return_inverse=True, return_counts=True)
    n_reverse = torch.bincount(bond, is_reverse.double(), minlength=len(codes))
    places = torch.full_like(codes, data.n_edges).scatter_reduce(
        0, bond, torch.arange(data.n_edges, device=bond.device), "amin"
    )
    is_mutual = bool(((counts == 2) & (n_reverse == 1)).all())
    return places, bond, (codes + base**3 // 2) // base**3, is_mutual
