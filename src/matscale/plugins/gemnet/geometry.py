"""Geometry of a batch, shared by all layers: graphs, bases of distances and sums over angles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from matscale.plugin import AtomicBatch, GaussianBasis, Graph, LinearRows, full_precision, polynomial_cutoff
from matscale.plugins.gemnet.angles import Angles, Ends
from matscale.plugins.gemnet.config import GemNetConfig
from matscale.plugins.gemnet.dihedrals import Dihedrals
from matscale.plugins.gemnet.links import Links, links_of, rank_by, reordered, span_of, symmetric, within
from matscale.plugins.gemnet.memory import check_fits


class RadialBasis(nn.Module):
    """Gaussians of a distance with an envelope that is twice differentiable at the cutoff."""

    def __init__(self, cutoff: float, n_radial: int) -> None:
        super().__init__()
        self.cutoff, self.gaussians = cutoff, GaussianBasis(cutoff, n_radial)

    @full_precision
    def forward(self, distance: Tensor) -> Tensor:
        """Expand distances [n] Å in the R Gaussians; returns [n, R]."""
        gaussians: Tensor = self.gaussians(distance)
        return polynomial_cutoff(distance, self.cutoff)[:, None] * gaussians


@dataclass(frozen=True)
class Geometry:
    """Graphs of a batch, and the angles between their edges."""

    edges: Links
    """Edges that carry messages: symmetric, sorted by target."""
    swap: LinearRows
    """Map that gives each edge the features of its reverse, from and to [n_edges, C]."""
    sources: LinearRows
    """Map that gives each edge the features of its source, from [n_atoms, C] to [n_edges, C]."""
    targets: LinearRows
    """Map that gives each edge the features of its target, from [n_atoms, C] to [n_edges, C]."""
    rank: Tensor
    """[n_atoms] rank of each atom (0, 1, ...) in the order of atoms by which edges are sorted."""
    triplets: Angles
    """Angles from edges b → a to edges c → a."""
    middle: Links | None = None
    """Middle edges of quadruplets."""
    dihedrals: Dihedrals | None = None
    pairs: Links | None = None
    """Pairs of the atom-edge and edge-atom interactions, sorted like the edges."""
    pair_angles: Angles | None = None
    """Angles from pairs b → a to edges c → a."""
    edge_pair_angles: Angles | None = None
    """Angles from edges b → a to pairs c → a."""
    pair_sources: LinearRows | None = None
    """Map that gives each pair the features of its source, from [n_atoms, C] to [n_pairs, C]."""
    far: Links | None = None
    """Pairs of the atom-atom interaction, sorted by target in a separate order."""
    far_rank: Tensor | None = None
    far_sources: LinearRows | None = None
    """Map that gives each far pair the features of its source, from [n_atoms, C] to [n_far, C]."""

    @classmethod
    def of(cls, config: GemNetConfig, data: AtomicBatch) -> Geometry:
        """Make the geometry of a batch, which all layers share."""
        links = links_of(data)
        unsorted, swap = symmetric(within(links, config.rule("edges")), config.image_kept)
        pairs = within(links, config.rule("atom_edge")) if config.atom_edge or config.edge_atom else None
        rank = rank_by(unsorted.degree, *([pairs.degree] if pairs else []))
        edges, swap = reordered(unsorted, swap, rank)
        middle = within(links, config.rule("quadruplets")) if config.quadruplets else None
        check_fits(config, edges, middle)
        span, n = span_of(links), config.n_spherical
        ends = _ends(edges, rank, span)
        parts: dict[str, object] = {}
        if middle:
            parts |= {"middle": middle, "dihedrals": Dihedrals(edges, middle, span, n)}
        if pairs:
            pairs = pairs.sorted_by(rank)
            pair_ends = _ends(pairs, rank, span)
            parts |= {"pairs": pairs, "pair_sources": LinearRows.gathered(pairs.source, data.n_atoms)}
            if config.atom_edge:
                parts["pair_angles"] = Angles(pair_ends, ends, n)
            if config.edge_atom:
                parts["edge_pair_angles"] = Angles(ends, pair_ends, n)
        if config.atom_atom:
            parts |= _far(links, config.rule("atom_atom"))
        sources, targets = (
            LinearRows.gathered(edges.source, data.n_atoms),
            LinearRows.gathered(edges.target, data.n_atoms),
        )
        triplets = Angles(ends, ends, n)
        return cls(edges, LinearRows.gathered(swap, edges.n), sources, targets, rank, triplets, **parts)  # type: ignore[arg-type]

    def to_atoms(self, x: Tensor) -> Tensor:
        """Sum `x` [n_edges, C] over the edges that end at each atom; returns [n_atoms, C]."""
        return self.targets.transposed()(x)

    @property
    def edge_degree(self) -> Tensor:
        """Number of edges of each atom, [n_atoms], in the order of the edges."""
        return by_rank(self.edges.degree, self.rank)

    @property
    def far_degree(self) -> Tensor:
        """Number of far pairs of each atom, [n_atoms], in the order of the pairs."""
        assert self.far is not None
        assert self.far_rank is not None
        return by_rank(self.far.degree, self.far_rank)


def _far(links: Links, rule: Graph) -> dict[str, object]:
    far = within(links, rule)
    rank = rank_by(far.degree)
    far = far.sorted_by(rank)
    return {"far": far, "far_rank": rank, "far_sources": LinearRows.gathered(far.source, far.n_atoms)}


def by_rank(x: Tensor, rank: Tensor) -> Tensor:
    """Reorder values of atoms [n_atoms] from the order of the batch to that of `rank`."""
    return torch.empty_like(x).index_copy(0, rank, x)


def _ends(links: Links, rank: Tensor, span: int) -> Ends:
    return Ends(links.unit, links.image(span), by_rank(links.degree, rank))
