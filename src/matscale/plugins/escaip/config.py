"""Options of EScAIP. Default widths are those of a small model; other options are as published."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from matscale.plugin import ArchitectureConfig, Positive

PUBLISHED_SHARES = (20, 10, 4, 10, 20)
"""Numbers of channels (of 64 in a head) for the Legendre polynomials of degree 0, 1, 2, 3 and 4."""


class EScAIPConfig(ArchitectureConfig):
    """Configuration of EScAIP."""

    hidden: Positive = 128
    """Channels H of an atom and of each of its neighbours."""
    n_layers: Positive = 4
    """Number of blocks, each with attention and feed-forward networks."""
    n_heads: Positive = 2
    """Number of attention heads; must divide `hidden`."""
    degree_channels: tuple[int, ...] = ()
    """Numbers of channels of a head for the Legendre polynomials of degree 0, 1, ... of the angles.

    They sum to hidden / n_heads. Default: the published proportions 20 : 10 : 4 : 10 : 20.
    """
    ffn_factor: Positive = 2
    """Hidden channels of feed-forward networks, readouts and heads, as a multiple of `hidden`."""
    atom_channels: Positive = 32
    """Channels of the element embeddings; each block has two embeddings."""
    order_channels: Positive = 16
    """Channels to which a block maps an atom's bond-orientational order; each block has two such maps."""
    n_order: int = Field(default=10, ge=2)
    """Number of degrees 0, 1, ... of the bond-orientational order."""
    distance_channels: Positive = 128
    """Channels to which a block maps the Gaussians of a distance."""
    n_radial: int = Field(default=600, ge=2)
    """Number of Gaussians that expand a distance, each twice as wide as their spacing."""
    cutoff: float = Field(default=6.0, gt=0)
    """Largest distance of a neighbour [Å]."""
    n_neighbors: Positive = 30
    """Rank at which the weight of a neighbour vanishes, about the number of neighbours that are kept.

    The atom itself has a rank, too.
    """
    max_neighbors: int = Field(default=45, ge=2)
    """Number of slots for an atom and its neighbours; time and memory depend on it, the model's weights do not."""
    rank_width: float = Field(default=0.2, gt=0)
    """Width w [Å] of smooth ranks: two neighbours exchange ranks where their distances differ by less than π w."""
    rank_sharpness: float = Field(default=0.1, gt=0)
    """Width of the smooth maximum of both ranks and the distance; 0 would be the exact maximum."""
    forces: Literal["direct", "gradient"] = "direct"
    """Source of the forces: a head, or derivatives of the energy (`gradient`).

    A head has to learn equivariance from rotated structures (`augmentation.rotate`). Derivatives are equivariant and
    also give the stress.
    """
    stress_head: Literal["equivariant", "none"] = "equivariant"
    """Stress head for direct forces; with `none`, as published, the model predicts no stress."""
    max_atomic_number: int = Field(default=118, ge=1, le=118)
    """Highest atomic number that has a row in the embeddings."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.hidden % self.n_heads:
            raise ValueError(f"hidden = {self.hidden} must be a multiple of n_heads = {self.n_heads}")
        if self.degree_channels and (
            min(self.degree_channels) < 0 or sum(self.degree_channels) != self.hidden // self.n_heads
        ):
            raise ValueError(
                f"degree_channels = {list(self.degree_channels)} must be counts that sum to hidden / n_heads = "
                f"{self.hidden // self.n_heads}; by default, the published proportions are used"
            )
        if self.n_neighbors > self.max_neighbors:
            raise ValueError(
                f"n_neighbors = {self.n_neighbors} exceeds max_neighbors = {self.max_neighbors}: the layout has no "
                "room for them. Set max_neighbors to about 1.5 n_neighbors, as more are kept at equal distances"
            )
        return self

    @property
    def is_direct(self) -> bool:
        """Whether forces come from a head."""
        return self.forces == "direct"

    @property
    def predicts_stress(self) -> bool:
        """Whether stress comes from a head."""
        return self.is_direct and self.stress_head != "none"

    @property
    def channels_by_degree(self) -> tuple[int, ...]:
        """Channels of each degree: `degree_channels`, or the published proportions."""
        return self.degree_channels or shared_out(self.hidden // self.n_heads)

    @property
    def search_radius(self) -> float:
        """Radius of the graph [Å].

        It exceeds the cutoff, because atoms just beyond the cutoff still count in the smooth rank of neighbours by
        distance.
        """
        return self.cutoff + math.pi * self.rank_width


def shared_out(n_channels: int) -> tuple[int, ...]:
    """Divide channels in the published proportions; partial sums are rounded, so that the total is exact."""
    ends = [round(n_channels * sum(PUBLISHED_SHARES[: k + 1]) / sum(PUBLISHED_SHARES)) for k in range(5)]
    return tuple(end - start for start, end in zip([0, *ends], ends))
