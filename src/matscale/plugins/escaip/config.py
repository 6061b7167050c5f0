"""Options of EScAIP. Widths are those of a small model; options that do not grow with the model are as published."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from matscale.plugin import ArchitectureConfig, Positive

PUBLISHED_SHARES = (20, 10, 4, 10, 20)
"""Channels of a head of 64 that see the angle through the Legendre polynomials of degree 0, 1, 2, 3 and 4."""


class EScAIPConfig(ArchitectureConfig):
    """Configuration of EScAIP."""

    hidden: Positive = 128
    """Channels H of an atom and of each of its neighbours."""
    n_layers: Positive = 4
    """Blocks of attention and feed-forward."""
    n_heads: Positive = 2
    """Attention heads; must divide `hidden`."""
    degree_channels: tuple[int, ...] = ()
    """Channels of a head whose attention sees angles by the Legendre polynomial of degree 0, 1, ...; their sum is
    hidden / n_heads. Left out: in the published proportions 20 : 10 : 4 : 10 : 20."""
    ffn_factor: Positive = 2
    """Hidden channels of feed-forwards, readouts and heads, in units of `hidden`."""
    atom_channels: Positive = 32
    """Channels of the element embeddings, of which every block has two."""
    order_channels: Positive = 16
    """Channels into which every block maps an atom's bond-orientational order, twice."""
    n_order: int = Field(default=10, ge=2)
    """Degrees 0, 1, ... of the bond-orientational order."""
    distance_channels: Positive = 128
    """Channels into which every block maps the Gaussians of a distance."""
    n_radial: int = Field(default=600, ge=2)
    """Gaussians of a distance, each twice as wide as their spacing."""
    cutoff: float = Field(default=6.0, gt=0)
    """Largest distance of a neighbour [Å]."""
    n_neighbors: Positive = 30
    """Rank at which a neighbour has faded out, the atom itself counted: about how many an atom keeps."""
    max_neighbors: int = Field(default=45, ge=2)
    """Room in the layout for an atom and its neighbours. No weight depends on it; time and memory do."""
    rank_width: float = Field(default=0.2, gt=0)
    """Difference of distances [Å], times π, over which one neighbour moves before another."""
    rank_sharpness: float = Field(default=0.1, gt=0)
    """How softly the largest of both ranks and the distance is taken; 0 would be the maximum."""
    forces: Literal["direct", "gradient"] = "direct"
    """A head for forces, which has to learn from turned structures (`augmentation.rotate`) that forces turn, or
    derivatives of the energy, which do by themselves and also give the stress."""
    stress_head: Literal["equivariant", "none"] = "equivariant"
    """`none`, as published, predicts no stress. Direct forces only."""
    max_atomic_number: int = Field(default=118, ge=1, le=118)
    """Heaviest element with a row in the embeddings."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.hidden % self.n_heads:
            raise ValueError(f"hidden = {self.hidden} must be a multiple of n_heads = {self.n_heads}")
        if self.degree_channels and (
            min(self.degree_channels) < 0 or sum(self.degree_channels) != self.hidden // self.n_heads
        ):
            raise ValueError(
                f"degree_channels = {list(self.degree_channels)} must be counts that sum to hidden / n_heads = "
                f"{self.hidden // self.n_heads}; without it they are shared out as published"
            )
        if self.n_neighbors > self.max_neighbors:
            raise ValueError(
                f"n_neighbors = {self.n_neighbors} exceeds max_neighbors = {self.max_neighbors}: the layout has no "
                "room for them. Half as much again is usual: neighbours at equal distances come together"
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
        """Channels of each degree: `degree_channels`, or shared out if that is left out."""
        return self.degree_channels or shared_out(self.hidden // self.n_heads)

    @property
    def search_radius(self) -> float:
        """Radius of the graph [Å]: larger than the cutoff, to count all atoms in the ranks of those within it."""
        return self.cutoff + math.pi * self.rank_width


def shared_out(n_channels: int) -> tuple[int, ...]:
    """Share out channels in the published proportions; partial sums are rounded, so that the total is exact."""
    ends = [round(n_channels * sum(PUBLISHED_SHARES[: k + 1]) / sum(PUBLISHED_SHARES)) for k in range(5)]
    return tuple(end - start for start, end in zip([0, *ends], ends))
