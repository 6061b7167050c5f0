"""Options of EquiformerV3. Default widths are small; most other defaults are those of the published OMat24 model."""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from matscale.plugin import Positive, sphere


class ExactGrid(NamedTuple):
    """Grid of the sphere on which the product of two functions is exact."""

    resolution: int | tuple[int, int]
    kind: sphere.GridKind
    n_points: int


class EqV3Config(sphere.SphereConfig):
    """Configuration of EquiformerV3."""

    channels: Positive = 16
    """Channels C of each spherical-harmonic coefficient of an atom."""
    n_layers: Positive = 4
    """Number of blocks, each with an attention layer and a feed-forward network."""
    lmax: int = Field(default=4, ge=1, le=sphere.MAX_DEGREE)
    """Highest degree l of the spherical harmonics; at least 2 for a model that predicts the stress directly."""
    mmax: int = Field(default=2, ge=0)
    """Highest order |m| that messages keep in the frame of their edge; at most lmax."""
    edge_channels: Positive = 16
    """Width of the radial networks and of the element embeddings in them."""
    attention_hidden: Positive = 8
    """Channels H of a message between its two convolutions, after the product of two such functions."""
    n_heads: Positive = 2
    """Number of attention heads."""
    alpha_channels: Positive = 8
    """Features A per head that determine the attention weight."""
    value_channels: Positive = 8
    """Channels V per head that are multiplied by the attention weight."""
    ffn_hidden: Positive = 64
    """Hidden channels F of the feed-forward networks and of the heads of energy and stress."""
    n_radial: int = Field(default=64, ge=2)
    """Number of Gaussians that expand a distance, each twice as wide as their spacing."""
    cutoff: float = Field(default=6.0, gt=0)
    """Interaction radius [Å]."""
    max_neighbors: int = Field(default=0, ge=0)
    """Number of nearest neighbours that send messages; 0: all within the cutoff.

    With a limit, a model is not smooth.
    """
    forces: Literal["direct", "gradient"] = "gradient"
    """Source of forces and stress: derivatives of the energy, or heads (`direct`)."""
    stress_head: Literal["equivariant", "none"] = "equivariant"
    """Stress head; `none` for molecules and surfaces. Without effect if forces are derivatives."""
    denoising: bool = False
    """Whether a model with direct forces also has the parts for denoising of non-equilibrium structures (DeNS).

    These parts are an encoding of forces as an input, and a second head, which predicts the noise (`EqV3.denoise`).
    """
    attention_drop: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of attention weights in the blocks; 0.1 in the published models with direct forces."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Probability that a structure leaves out the output of a block; 0.05 in published models with direct forces."""
    attention_epsilon: float = Field(default=1e-16, gt=0)
    """Number that is added to the sum over neighbours by which attention weights are divided."""
    mean_atoms: float = Field(default=1.0, gt=0)
    """Divisor of the sum over atoms that gives the energy; 77.81317 in the model of OC20."""
    mean_degree: float = Field(default=23.395238876342773, gt=0)
    """Divisor of the edge-degree embedding; a constant of the published models, not the mean degree of the data."""
    max_atomic_number: int = Field(default=118, ge=1, le=127)
    """Highest atomic number that has a row in the embeddings; 127 in the published models."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.forces == "gradient" and self.denoising:
            raise ValueError(
                "denoising = true with forces = 'gradient': noise is predicted by a head like that of direct forces. "
                "Set forces = 'direct', or leave denoising out."
            )
        return self

    @property
    def edge_grid(self) -> ExactGrid:
        """Grid of messages, which have orders up to mmax."""
        return exact_grid(self.lmax, self.mmax)

    @property
    def atom_grid(self) -> ExactGrid:
        """Grid of atoms, which have all orders."""
        return exact_grid(self.lmax, self.lmax)


def exact_grid(lmax: int, mmax: int) -> ExactGrid:
    """Choose the grid with the fewest points on which products of two functions keep their coefficients up to `lmax`.

    A coefficient of a product of two functions is an integral over three harmonics, of degree 3 lmax and order 3 mmax.
    All grids that integrate those give the same numbers.
    """
    latitudes = 3 * lmax + 1
    latitudes += latitudes % 2
    longitudes = 3 * mmax + 1
    even = ExactGrid((latitudes, longitudes), "product", latitudes * longitudes)
    resolution = next((r for r in sphere.LEBEDEV if r > 3 * lmax), None)
    if resolution is None or sphere.LEBEDEV[resolution] > even.n_points:
        return even
    return ExactGrid(resolution, "lebedev", sphere.LEBEDEV[resolution])


def idle_parameters(config: EqV3Config) -> frozenset[str]:
    """Names of the parameters that do not influence the outputs, kept because the published models have them.

    The head of the forces is an attention layer, and only its l = 1 outputs are read. They depend neither on the bias,
    which is for l = 0, nor on orders above 1, since gates do not mix orders. Parameters for denoising are idle in all
    other passes; those are not listed here.
    """
    if config.forces == "gradient":
        return frozenset()
    convolutions = [f"conv{n}.m.{m}.weight" for n in (1, 2) for m in range(1, config.mmax)]
    return frozenset(f"forces.attention.{name}" for name in ("project.bias", *convolutions))
