"""Neighbour rule of an architecture: defines which pairs of atoms become edges.

An edge j -> i runs from the neighbour (source) to the centre (target); `shift` counts the lattice vectors by which the
neighbour is displaced: edge_vec = positions[j] − positions[i] + shift @ cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from matscale.core.errors import ConfigError


@dataclass(frozen=True)
class Graph:
    """Neighbour rule. Make one with `none`, `dense`, `radius` or `nearest`.

    >>> Graph.radius(6.0).key, Graph.nearest(12.0, 20).key, Graph.none().has_edges
    ('radius-6', 'nearest-12-20-strict', False)
    """

    kind: Literal["none", "dense", "radius", "nearest"]
    cutoff: float = 0.0
    """Interaction radius [Å]."""
    n_neighbors: int = 0
    """Number of neighbours that `nearest` keeps."""
    strict: bool = True
    """Whether `nearest` keeps exactly the n nearest; otherwise EquiformerV2's rule applies (see `nearest`)."""
    is_dense: bool = False
    """Whether the model pads all structures of a batch to the size of the largest."""

    @classmethod
    def none(cls) -> Graph:
        """Make the rule without neighbours: atoms do not interact."""
        return cls("none")

    @classmethod
    def dense(cls) -> Graph:
        """Make the rule that all atoms of a structure interact.

        Models then read `AtomicBatch.dense()` in place of edges.
        """
        return cls("dense", is_dense=True)

    @classmethod
    def radius(cls, cutoff: float, *, dense: bool = False) -> Graph:
        """Make the rule that all atoms within `cutoff` Å of an atom are its neighbours, periodic images included.

        Set `dense` if the model pads all structures of a batch to the size of the largest.
        """
        if not 0 < cutoff < math.inf:
            raise ConfigError(f"cutoff = {cutoff} Å: must be positive and finite.")
        return cls("radius", float(cutoff), is_dense=dense)

    @classmethod
    def nearest(cls, cutoff: float, n_neighbors: int, strict: bool = True) -> Graph:
        """Make the rule that the nearest atoms within `cutoff` Å of an atom are its neighbours, images included.

        If `strict`, exactly the `n_neighbors` nearest atoms are kept; atoms at equal distances are ordered by index j,
        then by shift. Otherwise the rule of the OMat24 EquiformerV2 models applies: an atom is kept if its squared
        distance is at most that of the (n_neighbors + 1)-th nearest atom plus 0.01 Å². Then atoms at equal distances
        are kept or dropped together.
        """
        if not 0 < cutoff < math.inf or n_neighbors < 1:
            raise ConfigError(f"cutoff = {cutoff} Å, n_neighbors = {n_neighbors}: both must be positive and finite.")
        return cls("nearest", float(cutoff), int(n_neighbors), bool(strict))

    @property
    def has_edges(self) -> bool:
        """Whether batches carry `edge_index` and `edge_shift`."""
        return self.kind in ("radius", "nearest")

    @property
    def key(self) -> str:
        """Short name of this rule, for example as the name of a folder with cached edges."""
        if self.kind == "radius":
            return f"radius-{self.cutoff:g}"
        if self.kind == "nearest":
            return f"nearest-{self.cutoff:g}-{self.n_neighbors}-{'strict' if self.strict else 'ties'}"
        return self.kind
