"""Graphs of interactions: directed edges, selected from those of a batch.

Edges j -> i point from the neighbour (source) to the centre (target); their unit vectors point from the centre to the
neighbour. They are sorted by target, in an order in which atoms with equally many edges are consecutive, so that a sum
over the edges of each atom is a batched product over consecutive rows (`angles`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from matscale.plugin import AtomicBatch, Graph

_RESOLUTION = 1e6
"""Number of steps per Å to which distances are rounded before they are compared, as in the core's nearest rule."""


@dataclass(frozen=True)
class Links:
    """Edges of one interaction."""

    source: Tensor
    """[n] index of the neighbour."""
    target: Tensor
    """[n] index of the centre."""
    shift: Tensor
    """[n, 3] lattice multiples, integers."""
    vec: Tensor
    """[n, 3] Å, from centre to neighbour."""
    n_atoms: int

    @cached_property
    def distance(self) -> Tensor:
        """Lengths of the edges, [n] Å"""
        distance: Tensor = torch.linalg.vector_norm(self.vec, dim=1)
        return distance

    @cached_property
    def unit(self) -> Tensor:
        """Unit vectors [n, 3] from centre to neighbour."""
        return self.vec / self.distance[:, None]

    @property
    def n(self) -> int:
        """Number of edges."""
        return self.source.shape[0]

    @cached_property
    def degree(self) -> Tensor:
        """Number of edges that end at each atom, [n_atoms]."""
        return torch.bincount(self.target, minlength=self.n_atoms)

    def select(self, which: Tensor) -> Links:
        """Select links by the indices or the mask `which`."""
        if which.dtype == torch.bool:
            which = which.nonzero().squeeze(1)
        source, target, shift, vec = (
            x.index_select(0, which) for x in (self.source, self.target, self.shift, self.vec)
        )
        return Links(source, target, shift, vec, self.n_atoms)

    def sorted_by(self, rank: Tensor) -> Links:
        """Sort by `rank` [n_atoms] of the target; edges of one atom keep their order."""
        return self.select(rank.index_select(0, self.target).sort(stable=True)[1])

    def image(self, span: int) -> Tensor:
        """Number that identifies each neighbour image [n] by its source and by its shift relative to the centre.

        The number is linear in the shift: if the centre is shifted, the number for that shift (`shift_code`) is added.
        `span` is the result of `span_of`.
        """
        return self.source + self.shift_code(span)

    def shift_code(self, span: int) -> Tensor:
        """Number for the shift of each edge [n], which is the second summand of `image`."""
        weights = torch.tensor([1, span, span * span], device=self.shift.device) * self.n_atoms
        return (self.shift * weights).sum(1)


def span_of(*links: Links) -> int:
    """Span of shifts of `links`, with which the numbers of `Links.image` are unique.

    The numbers are unique even for the sum of two shifts minus a third.
    """
    largest = max((int(each.shift.abs().max()) for each in links if each.n), default=0)
    return 6 * largest + 2


def links_of(data: AtomicBatch) -> Links:
    """Make links of all edges of a batch, differentiable in positions and cell."""
    source, target = data.edges()
    assert data.edge_shift is not None
    return Links(source, target, data.edge_shift.long(), data.edge_vec(), data.n_atoms)


def within(links: Links, rule: Graph) -> Links:
    """Select the edges that `rule` keeps among `links`, which hold all edges of a batch, sorted by target."""
    kept = links.select(links.distance.detach() < rule.cutoff)
    if rule.kind == "radius":
        return kept
    near = kept.distance.detach().mul(_RESOLUTION).round()
    order = near.sort(stable=True)[1]
    order = order.index_select(0, kept.target.index_select(0, order).sort(stable=True)[1])
    first = kept.degree.cumsum(0) - kept.degree
    rank = torch.arange(kept.n, device=order.device) - first.index_select(0, kept.target)
    return kept.select(order[rank < rule.n_neighbors].sort()[0])


def symmetric(links: Links, image_kept: str = "below") -> tuple[Links, Tensor]:
    """Make edges symmetric: keep one edge of each pair of atoms and add its reverse; returns (edges, swap [n]).

    A rule of nearest neighbours may find a pair from one side only. Published models keep edges found from the atom
    with the larger number and drop the others. From an atom to its own images, they keep the edges whose first nonzero
    shift is below or above zero, as `image_kept` says. `swap` is the index of the reverse of each edge.
    """
    own = links.source == links.target
    kept = _is_negative(links.shift if image_kept == "below" else -links.shift)
    half = links.select((links.source < links.target) | (own & kept))
    both = Links(
        source=torch.cat([half.source, half.target]),
        target=torch.cat([half.target, half.source]),
        shift=torch.cat([half.shift, -half.shift]),
        vec=torch.cat([half.vec, -half.vec]),
        n_atoms=half.n_atoms,
    )
    return both, torch.arange(both.n, device=both.source.device).roll(half.n)


def _is_negative(shift: Tensor) -> Tensor:
    a, b, c = shift.unbind(1)
    return (a < 0) | ((a == 0) & ((b < 0) | ((b == 0) & (c < 0))))


def reordered(links: Links, swap: Tensor, rank: Tensor) -> tuple[Links, Tensor]:
    """Sort symmetric edges and their swap by the rank of the target."""
    order = rank.index_select(0, links.target).sort(stable=True)[1]
    place = torch.empty_like(order)
    place[order] = torch.arange(links.n, device=order.device)
    return links.select(order), place.index_select(0, swap.index_select(0, order))


def rank_by(*degrees: Tensor) -> Tensor:
    """Rank atoms [n_atoms] so that atoms with equal values in all `degrees` are consecutive."""
    order = torch.arange(degrees[0].shape[0], device=degrees[0].device)
    for degree in reversed(degrees):
        order = order.index_select(0, degree.index_select(0, order).sort(stable=True)[1])
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.shape[0], device=order.device)
    return rank
