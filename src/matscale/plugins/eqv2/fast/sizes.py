"""Sizes of the chunks of the fast path, and the choice of tensors to keep for the backward.

Both follow from the sizes of the model and of the processor's caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from matscale.plugin import sphere
from matscale.plugins.eqv2.fast.edges import SortedEdges

CHUNK = 512
"""Number of edges per chunk on a CPU: enough for matrix products at full speed, despite the overhead of Python."""
CACHE_BYTES = 2**19
"""Bytes of grid values, or of coefficients to rotate, per chunk: half of a common L2 cache."""
TURNED_BYTES = 2**13
"""Largest size [bytes] of an edge's rotated coefficients that are kept for the backward; larger ones are rotated again.

For small ones, rotating again takes longer than keeping them.
"""
GPU_BYTES = 2**30
"""Bytes of grid values per chunk on a GPU, where few large launches matter more than the cache."""


@dataclass(frozen=True)
class EdgeFunctionSizes:
    """Settings of the edge function that are not tensors."""

    n_degrees: list[int]
    """Number of degrees l that have an order m, for m = 0..mmax."""
    channels: int
    hidden: int
    n_features: int
    grid: sphere.SphereGrid


class AtOnce(NamedTuple):
    """Numbers of edges that are computed together, in each part of the edge function."""

    chunk: int
    """Number of edges in a chunk of the convolutions."""
    grid: int
    """Number of edges whose values on the grid are computed together."""
    turn: int
    """Number of edges whose coefficients are rotated together."""

    @classmethod
    def of(cls, edges: SortedEdges, shape: EdgeFunctionSizes, like: Tensor) -> AtOnce:
        grid = grid_at_once(shape.grid.to_grid.shape[0] * shape.hidden, like)
        if like.is_cuda:
            return cls(grid, grid, grid)
        pair = edges.pairs.shape[1] * shape.channels * like.element_size()
        return cls(CHUNK, grid, max(CACHE_BYTES // pair, 1))


def grid_at_once(per_item: int, like: Tensor) -> int:
    """Number of items, with `per_item` values on the grid each, that are computed together."""
    return max((GPU_BYTES if like.is_cuda else CACHE_BYTES) // (per_item * like.element_size()), 1)


def chunk_of(n_edges: int, like: Tensor) -> int:
    """Number of edges that simple sums process at a time."""
    return n_edges if like.is_cuda else CHUNK


def keeps_turned(width: int, like: Tensor) -> bool:
    """Whether the `width` rotated coefficients of an edge are kept for the backward."""
    return width * like.element_size() <= TURNED_BYTES
