r"""Sort edges so that sums over neighbours are matrix products.

Atoms are sorted by their number of edges d, edges by their atom: all atoms with equally many edges then form a block
[n, d, ...], and a sum over neighbours is a batched product without scatter, index or atomic addition,

    Σ_{e -> i} D_e^T v_e = [d·K_r, K]^T [d·K_r, c]        one product for each atom i.

Nearest-neighbour graphs have few distinct d: most atoms have one edge more than `max_neighbors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from matscale.plugin import AtomicBatch, sphere


class Block(NamedTuple):
    """Block of consecutive atoms that all have the same number of edges, `degree`."""

    first_atom: int
    n_atoms: int
    degree: int
    first_edge: int

    @property
    def n_edges(self) -> int:
        return self.n_atoms * self.degree

    @property
    def edges(self) -> slice:
        return slice(self.first_edge, self.first_edge + self.n_edges)

    @property
    def atoms(self) -> slice:
        return slice(self.first_atom, self.first_atom + self.n_atoms)


class Chunk(NamedTuple):
    """Chunk of edges that are computed together: all edges of some consecutive atoms."""

    edges: slice
    blocks: list[Block]

    @property
    def n_edges(self) -> int:
        n_edges: int = self.edges.stop - self.edges.start
        return n_edges

    def parts(self, n_edges: int) -> list[tuple[slice, Chunk]]:
        """Split the chunk into smaller ones of at most `n_edges` edges, each with its range of edges in this chunk."""
        first = self.edges.start
        return [(slice(p.edges.start - first, p.edges.stop - first), p) for p in _chunks(self.blocks, n_edges)]


@dataclass(frozen=True)
class SortedEdges:
    """Edges of a batch sorted by target, with targets sorted by degree. Outside this class, atoms keep their order."""

    edges: sphere.Edges
    """Edges of the batch, sorted."""
    order: Tensor | None
    """[n_targets] atoms that have edges, sorted by degree; None: all atoms, in the order of the batch."""
    permutation: Tensor | None
    """[n_edges] index in the batch of each sorted edge; None if sorting left the order unchanged."""
    blocks: list[Block]
    n_atoms: int
    pairs: Tensor
    """[n_edges, 2K] row numbers in [n_atoms·K, C]: for each coefficient, the row of the source, then of the target."""
    rescale: Tensor
    """[K] factor of each coefficient of a sum over edges, which compensates for the omitted orders."""

    @property
    def sizes(self) -> list[int]:
        """Number of edges per block."""
        return [block.n_edges for block in self.blocks]

    @property
    def n_targets(self) -> int:
        """Number of atoms that have edges."""
        return sum(block.n_atoms for block in self.blocks)

    def targets(self, x: Tensor) -> Tensor:
        """Select the atoms that have edges, sorted by degree: [n_targets, ...] of `x` [n_atoms, ...]."""
        return x if self.order is None else x.index_select(0, self.order)

    def atoms(self, x: Tensor) -> Tensor:
        """Put `x` [n_targets, ...] in the order of the batch; returns [n_atoms, ...], zero for atoms without edges."""
        return x if self.order is None else x.new_zeros(self.n_atoms, *x.shape[1:]).index_copy(0, self.order, x)

    def sort(self, x: Tensor) -> Tensor:
        """Sort values of edges [n_edges, ...] that are in the order of the batch."""
        return x if self.permutation is None else x.index_select(0, self.permutation)

    def per_target(self, *x: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Split values of edges [n_edges, ...] into blocks [n, d, ...] of n atoms with d edges each."""
        split = [tensor.split(self.sizes) for tensor in x]
        for block, *parts in zip(self.blocks, *split):
            yield tuple(part.unflatten(0, (block.n_atoms, block.degree)) for part in parts)

    def chunks(self, n_edges: int) -> list[Chunk]:
        """List chunks of at most `n_edges` edges; an atom with more edges is a chunk of its own."""
        return _chunks(self.blocks, n_edges)


def _chunks(blocks: list[Block], n_edges: int) -> list[Chunk]:
    chunks: list[Chunk] = []
    current: list[Block] = []
    for piece in _pieces(blocks, n_edges):
        if current and piece.edges.stop - current[0].first_edge > n_edges:
            chunks.append(_chunk(current))
            current = []
        current.append(piece)
    return chunks + ([_chunk(current)] if current else [])


def _pieces(blocks: list[Block], n_edges: int) -> Iterator[Block]:
    for block in blocks:
        at_once = max(n_edges // block.degree, 1)
        for start in range(0, block.n_atoms, at_once):
            n = min(at_once, block.n_atoms - start)
            yield Block(block.first_atom + start, n, block.degree, block.first_edge + start * block.degree)


def _chunk(blocks: list[Block]) -> Chunk:
    return Chunk(slice(blocks[0].first_edge, blocks[-1].edges.stop), blocks)


def sorted_edges(frames: sphere.EdgeFrames, data: AtomicBatch) -> SortedEdges:
    """Sort the edges of a batch. Raises the errors of `frames`."""
    _, target = data.edges()
    degree, atoms = torch.bincount(target, minlength=data.n_atoms).sort(stable=True)
    blocks, n_lonely = _blocks(degree)
    rank = torch.empty_like(atoms)
    rank[atoms] = torch.arange(data.n_atoms, device=atoms.device)
    place, permutation = rank.index_select(0, target).sort(stable=True)
    equal_degrees = len(blocks) == 1 and not n_lonely
    as_they_are = equal_degrees and torch.equal(place, target)
    if not as_they_are:
        assert data.edge_index is not None
        assert data.edge_shift is not None
        data = replace(data, edge_index=data.edge_index[:, permutation], edge_shift=data.edge_shift[permutation])
    edges = frames(data)
    return SortedEdges(
        edges=edges,
        order=None if equal_degrees else atoms[n_lonely:],
        permutation=None if as_they_are else permutation,
        blocks=blocks,
        n_atoms=data.n_atoms,
        pairs=_pairs(edges),
        rescale=_per_coefficient(frames.rescale.to(edges.into_frame.dtype), edges.into_frame.shape[2]),
    )


def _pairs(edges: sphere.Edges) -> Tensor:
    n_coefficients = edges.into_frame.shape[2]
    atoms = torch.stack([edges.source, edges.target], dim=1)[:, None] * n_coefficients  # [n_edges, 1, 2]
    coefficients = torch.arange(n_coefficients, device=atoms.device)[:, None]
    return (atoms + coefficients).flatten(1)


def _per_coefficient(rescale: Tensor, n_coefficients: int) -> Tensor:
    """Expand values per degree, the first of `rescale` [K_r], to values per coefficient [K], degree-major."""
    n_degrees = round(n_coefficients**0.5)
    repeats = 2 * torch.arange(n_degrees, device=rescale.device) + 1
    return rescale[:n_degrees].repeat_interleave(repeats, output_size=n_coefficients)


def _blocks(sorted_degree: Tensor) -> tuple[list[Block], int]:
    """Blocks of atoms with equal degree, from ascending degrees [n_atoms]; also the number of atoms of degree 0."""
    blocks, first_atom, first_edge, n_lonely = [], 0, 0, 0
    degrees, counts = torch.unique_consecutive(sorted_degree, return_counts=True)
    for d, n in zip(degrees.tolist(), counts.tolist()):
        if d == 0:
            n_lonely = n
            continue
        blocks.append(Block(first_atom, n, d, first_edge))
        first_atom, first_edge = first_atom + n, first_edge + n * d
    return blocks, n_lonely
