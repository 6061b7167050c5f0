"""Options of eSEN. Default widths are small; most other defaults are those of the published eSEN-30M-OAM."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from matscale.plugin import Positive, sphere


class ESENConfig(sphere.SphereConfig):
    """Configuration of eSEN."""

    channels: Positive = 16
    """Channels C of each spherical-harmonic coefficient of an atom."""
    hidden: Positive = 16
    """Channels H of a message between its two convolutions, of the feed-forward networks and of the heads."""
    edge_channels: Positive = 16
    """Width of the radial networks and of the embeddings of the elements of an edge."""
    n_layers: Positive = 4
    """Number of blocks, each with messages along edges and a feed-forward network."""
    lmax: int = Field(default=3, ge=1, le=sphere.MAX_DEGREE)
    """Highest degree l of the spherical harmonics; at least 2 for a model that predicts the stress directly."""
    mmax: int = Field(default=2, ge=0)
    """Highest order |m| that messages keep in the frame of their edge; at most lmax."""
    n_radial: int = Field(default=64, ge=2)
    """Number of Gaussians that expand a distance, each twice as wide as their spacing."""
    cutoff: float = Field(default=6.0, gt=0)
    """Interaction radius [Å]."""
    max_neighbors: int = Field(default=0, ge=0)
    """Number of nearest neighbours that send messages; 0: all within the cutoff.

    With a limit, a model is not smooth.
    """
    activation: Literal["gate", "s2"] = "gate"
    """Activation of messages: gates of scalars, exactly equivariant; or SiLU on a grid of the sphere (`s2`)."""
    feed_forward: Literal["spectral", "grid"] = "spectral"
    """Feed-forward network: linear maps of each degree with gates between, or an MLP at each point of a grid."""
    grid_resolution: int | None = Field(default=None, ge=2, le=512)
    """Latitudes and longitudes of the grids; even, and at least 2(lmax + 1).

    Without a number: 2(lmax + 1) latitudes, and as few longitudes as the orders need. Only `s2` and `grid` have grids.
    """
    norm: Literal["rms_norm_sh", "layer_norm_sh", "layer_norm"] = "rms_norm_sh"
    """Norm of coefficients.

    `rms_norm_sh` has one scale for all degrees; `layer_norm_sh` treats scalars separately and has one scale for all
    l > 0; `layer_norm` has a scale for each degree.
    """
    forces: Literal["direct", "gradient"] = "gradient"
    """Source of forces and stress: derivatives of the energy, or heads (`direct`)."""
    stress_head: Literal["equivariant", "none"] = "equivariant"
    """Stress head; the published models with direct forces have `none`. Without effect if forces are derivatives."""
    system_vector: bool = False
    """Whether the scalars have a vector of their own that is the same for all structures.

    It stands for the charge, spin and data set with which a model of molecules was imported.
    """
    max_atomic_number: int = Field(default=99, ge=1, le=118)
    """Highest atomic number that has a row in the embeddings."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.grid_resolution is not None:
            if not self.has_grids:
                raise ValueError(
                    f"grid_resolution = {self.grid_resolution} with activation = 'gate' and feed_forward = 'spectral': "
                    "such a model has no grid. Leave grid_resolution out, or set activation = 's2'."
                )
            sphere.check_resolution(self.grid_resolution, self.lmax, "product")
        return self

    @property
    def has_grids(self) -> bool:
        """Whether some activation acts on a grid of the sphere."""
        return self.activation == "s2" or self.feed_forward == "grid"

    @property
    def n_edge_features(self) -> int:
        """Number of inputs of the radial networks: Gaussians, and embeddings of both elements."""
        return self.n_radial + 2 * self.edge_channels

    @property
    def edge_grid(self) -> tuple[int, int]:
        """Latitudes and longitudes of the grid of messages."""
        return self._grid(self.mmax)

    @property
    def atom_grid(self) -> tuple[int, int]:
        """Latitudes and longitudes of the grid of atoms."""
        return self._grid(self.lmax)

    def _grid(self, mmax: int) -> tuple[int, int]:
        if self.grid_resolution is not None:
            return self.grid_resolution, self.grid_resolution
        return 2 * (self.lmax + 1), 2 * (mmax + 1) + 1 if mmax == self.lmax else 2 * mmax + 1


def idle_parameters(config: ESENConfig) -> frozenset[str]:
    """Names of the parameters that do not influence the outputs, kept because the published models have them.

    The heads of forces and stress read l = 1 and l = 2 of a linear map that has a bias for l = 0. A head of the energy
    reads only l = 0: unless the norm has one scale for all degrees, the parts of the last block for higher degrees have
    no effect.
    """
    reads = 0 if config.forces == "gradient" else 2 if config.predicts_stress else 1  # highest degree
    idle = {"forces.linear.bias"} if config.forces == "direct" else set()
    if config.predicts_stress:
        idle.add("stress.linear.bias")
    last, is_spectral = f"blocks.{config.n_layers - 1}", config.feed_forward == "spectral"
    if config.norm == "layer_norm_sh" and reads == 0:
        idle |= {"norm.weight", f"{last}.atom_norm.weight"} if is_spectral else {"norm.weight"}
    if is_spectral and (config.norm == "layer_norm" or (config.norm == "layer_norm_sh" and reads == 0)):
        convolutions = ("conv1", "conv2") if config.activation == "gate" else ("conv2",)
        orders = range(reads, config.mmax)  # the m-th weight belongs to the order m + 1, in degrees above m
        idle |= {f"{last}.edge_wise.{name}.m.{m}.weight" for name in convolutions for m in orders}
        if reads == 0:
            idle |= {f"{last}.atom_wise.gates.0.{name}" for name in ("weight", "bias")}
    return frozenset(idle)
