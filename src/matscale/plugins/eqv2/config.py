"""Options of EquiformerV2. Default widths are those of `SIZES["ladder-13"]`; most other defaults are as in OMat24."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from matscale.plugin import Positive, sphere


class EqV2Config(sphere.SphereConfig):
    """Configuration of EquiformerV2. `matscale.plugins.eqv2.fairchem.names` maps fairchem's names of these options."""

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
    attention_hidden: Positive = 16
    """Channels of a message between its two convolutions."""
    n_heads: Positive = 1
    """Number of attention heads."""
    alpha_channels: Positive = 16
    """Features per head that determine the attention weight."""
    value_channels: Positive = 4
    """Channels per head that are multiplied by the attention weight."""
    ffn_hidden: Positive = 16
    """Hidden channels of the feed-forward networks and of the energy head."""
    n_radial: int = Field(default=600, ge=2)
    """Number of Gaussians that expand a distance, each twice as wide as their spacing."""
    cutoff: float = Field(default=12.0, gt=0)
    """Interaction radius [Å]."""
    max_neighbors: int = Field(default=20, ge=0)
    """Number of nearest neighbours that send messages; 0: all within the cutoff, with a smooth envelope."""
    strict_neighbors: bool = False
    """Whether exactly `max_neighbors` are kept; otherwise, also further neighbours at nearly the same distance."""
    grid: sphere.GridKind = "product"
    """Grid of the sphere for activations: `product`, latitudes × longitudes; `lebedev`, a third as many points."""
    grid_resolution: int = Field(default=18, ge=2, le=512)
    """Resolution R of the grid, which integrates all degrees below R exactly; even, and at least 2(lmax + 1).

    A product grid has R latitudes.
    """
    norm: Literal["layer_norm_sh", "layer_norm", "rms_norm_sh"] = "layer_norm_sh"
    """Norm of coefficients.

    `layer_norm_sh` treats scalars separately and has one scale for all l > 0; `layer_norm` has a scale for each degree;
    `rms_norm_sh` has one scale for all degrees.
    """
    forces: Literal["direct", "gradient"] = "direct"
    """Source of forces and stress: heads, or derivatives of the energy (`gradient`; then `max_neighbors` must be 0)."""
    stress_head: Literal["equivariant", "rank2", "none"] = "equivariant"
    """Stress head: `rank2` is the published one, whose anisotropic part is not equivariant.

    With `none` the model predicts no stress, as is usual for molecules and surfaces. The option has an effect only with
    direct forces.
    """
    alpha_drop: float = Field(default=0.1, ge=0, lt=1)
    """Dropout of attention weights in the blocks."""
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    """Probability that a block's contribution is left out for a structure."""
    proj_drop: float = Field(default=0.0, ge=0, lt=1)
    """Probability that a channel of an atom, with all its coefficients, is left out of a block's contribution."""
    weight_init: Literal["uniform", "normal"] = "uniform"
    """Distribution of initial weights of linear maps: uniform within ±1/√inputs, or normal with deviation 1/√inputs."""
    mean_atoms: float = Field(default=1.0, gt=0)
    """Divisor of the sum over atoms that gives the energy.

    It is 31.17 in the OMat24 models, whose energies are in eV rather than in units of their spread.
    """
    mean_degree: float = Field(default=61.95, gt=0)
    """Divisor of the edge-degree embedding; a constant of the published models, not the mean degree of the data."""
    max_atomic_number: int = Field(default=95, ge=1, le=118)
    """Highest atomic number that has a row in the embeddings."""

    without_limit: ClassVar[str] = "Set max_neighbors = 0 and a shorter cutoff, for example 6."

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        sphere.check_resolution(self.grid_resolution, self.lmax, self.grid)
        if self.strict_neighbors and self.is_smooth:
            raise ValueError(
                "strict_neighbors = true with max_neighbors = 0: all neighbours within the cutoff count, so there is "
                "no number to keep. Leave strict_neighbors out, or set max_neighbors to a number, for example 20."
            )
        return self

    @property
    def n_grid_points(self) -> int:
        """Number of points of each grid."""
        return sphere.LEBEDEV[self.grid_resolution] if self.grid == "lebedev" else self.grid_resolution**2


_GRID_BRANCH = ("expand.weight", "expand.bias", *(f"pointwise.{layer}.weight" for layer in (0, 2, 4)))


def idle_parameters(config: EqV2Config) -> frozenset[str]:
    """Names of the parameters that do not influence the outputs, kept because the published models have them.

    The energy depends on scalars only, which a feed-forward network computes from scalars: the grid branch of the
    energy head is idle. The force head is an attention layer whose output is used only for l = 1. With forces by
    derivative, only the scalars of the last block's output are used: the parts of that block for l > 0 are idle.

    Gradients of idle parameters are zeros rather than missing, so that weight decay acts on them as in fairchem.
    """
    idle = {f"energy.feed_forward.{name}" for name in _GRID_BRANCH}
    if config.forces == "direct":
        idle.add("forces.attention.project.bias")
        idle |= {f"forces.attention.edge_function.conv2.m.{m}.weight" for m in range(1, config.mmax)}
        if config.stress_head == "rank2" and config.norm == "layer_norm_sh":
            idle.add("stress.harmonics_norm.scalars.weight")  # LayerNorm of one channel is its bias
        return frozenset(idle)
    last = f"blocks.{config.n_layers - 1}"
    idle |= {f"{last}.feed_forward.{name}" for name in _GRID_BRANCH}
    idle |= {f"{last}.attention.edge_function.conv2.m.{m}.weight" for m in range(config.mmax)}
    if config.norm == "layer_norm_sh":
        idle |= {f"{last}.feed_forward_norm.weight", "norm.weight"}
    return frozenset(idle)
