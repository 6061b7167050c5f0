"""Periodic transformer: attention with a bias by distances to all images, and values weighted by directions.

    x_i    = a(Z_i)
    φ(d)   = f_c(d) g(d)                                             K Gaussians g, envelope f_c, zero at the cutoff
    s_ij   = Σ_images φ(d),      m_ij = φ(min_images d)              lattice sum, and the nearest image
    u_ij   = Σ_images φ(d) r/d                                       likewise with the direction from i to the image
    n_layers times, for every head h, in place of the attention of `encoder`:
        A_ij = softmax_j(q_i·k_j / √D_h + b_h·(s_ij ⊕ m_ij))         over all atoms j of the structure
        x_i += W Σ_j A_ij v_j  +  Σ_{c = x, y, z} W_c Σ_j A_ij (w_h·u_ij)_c v_j
    energy, forces, stress: three heads on LayerNorm(x), see `core.layers.heads`

The inputs from the geometry are vectors to images within the cutoff, which do not depend on the choice of the cell:
the model claims `periodic`, besides permutation and translation. Distances carry no direction: with the bias alone,
the best prediction of a force would be its mean over all orientations, which is zero; hence the second sum. This sum
is not equivariant: x, y and z are separate channels, and the model must learn rotations from data, so training
rotates structures unless this is switched off. Lattice sums are smooth when images enter or leave. The nearest
distance has a kink where another image becomes the nearest one: predicted forces are continuous there, but their
slopes are not. Attention to atoms without an image within the cutoff depends only on their element. The softmax over
a supercell differs from that over its cell, so that the model does not claim an extensive energy.

The attention bias by lattice sums follows Crystalformer, arXiv:2403.11686, which sums the attention weights of images;
here their logits are summed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from matscale.plugin import (
    Architecture,
    AtomicBatch,
    BatchShape,
    DatasetInfo,
    GaussianBasis,
    Graph,
    Padding,
    full_precision,
    hookimpl,
    is_attention_wanted,
    polynomial_cutoff,
)
from matscale.plugins.transformer.encoder import (
    DIAL,
    SHAPES,
    EncoderConfig,
    EncoderLayer,
    EncoderModel,
    attention_weights,
    encoder_ladder,
    hand_padded,
)


class PeriodicTransformerConfig(EncoderConfig):
    """Configuration of the periodic transformer."""

    cutoff: float = Field(default=6.0, gt=0)
    """Largest distance to an image of an atom [Å]."""
    n_radial: int = Field(default=16, ge=1)
    """Number K of Gaussians that expand a distance."""


@dataclass(frozen=True)
class Pairs:
    """Features of every pair (i, j) of atoms of a structure, sorted by i, the atom that attends, then by j."""

    distances: Tensor
    """[n_pairs, 2K] lattice sums s_ij, then m_ij of the nearest image."""
    directions: Tensor
    """[n_pairs, 3, K] lattice sums u_ij with the direction to each image."""
    slot: Tensor
    """[n_pairs] index of each pair in the flattened padded layout."""
    layout: tuple[int, int, int]
    """Shape of the padded layout: (n_structures, max_atoms, max_atoms)."""

    def padded(self, x: Tensor) -> Tensor:
        """Pad values of pairs, `x` [n_pairs, ...], with zeros; returns [n_structures, max_atoms, max_atoms, ...]."""
        n_structures, n_slots, _ = self.layout
        rows = x.new_zeros(n_structures * n_slots**2, *x.shape[1:]).index_copy(0, self.slot, x)
        return torch.unflatten(rows, 0, self.layout)


class PairGeometry(nn.Module):
    """Module that computes, for each pair of atoms, sums of radial functions over its periodic images."""

    def __init__(self, cutoff: float, n_radial: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.basis = GaussianBasis(cutoff, n_radial)

    @full_precision
    def forward(self, data: AtomicBatch, padding: Padding) -> Pairs:
        counts = data.atoms_per_structure.long()
        first = torch.cumsum(counts**2, 0) - counts**2  # pair of each structure
        row = first[data.batch] + padding.rank * counts[data.batch]  # first pair of each atom
        j, i = data.edges()
        pair, n_pairs = row.index_select(0, i) + padding.rank.index_select(0, j), int((counts**2).sum())
        vector = data.edge_vec()
        distance = torch.linalg.vector_norm(vector, dim=-1)
        expanded = self.expand(distance)  # [n_edges, K]
        directed = (vector / distance[:, None])[:, :, None] * expanded[:, None]  # [n_edges, 3, K]
        sums = expanded.new_zeros(n_pairs, expanded.shape[1]).index_add(0, pair, expanded)
        nearest = self.expand(self.nearest(distance, pair, n_pairs))
        directions = directed.new_zeros(n_pairs, *directed.shape[1:]).index_add(0, pair, directed)
        n_structures, n_slots = padding.mask.shape
        # True where both are atoms, in the order of the pairs: structure, then i, then j.
        slot = (padding.mask[:, :, None] & padding.mask[:, None, :]).flatten().nonzero().squeeze(1)
        return Pairs(torch.cat([sums, nearest], dim=-1), directions, slot, (n_structures, n_slots, n_slots))

    def expand(self, distance: Tensor) -> Tensor:
        """Expand distances [n] Å in K Gaussians [n, K], which vanish at the cutoff with their slope and curvature."""
        gaussians: Tensor = self.basis(distance)
        return gaussians * polynomial_cutoff(distance, self.cutoff)[:, None]

    def nearest(self, distance: Tensor, pair: Tensor, n_pairs: int) -> Tensor:
        """Distance [n_pairs] of the nearest image of each pair, at most the cutoff, from those of edges [n_edges] Å.

        The result is right in any cell, however skewed: all images within the cutoff are among the edges. An atom at
        distance zero is not an image of itself.
        """
        return distance.new_full((n_pairs,), self.cutoff).scatter_reduce(0, pair, distance, "amin")


class PeriodicLayer(EncoderLayer):
    """Encoder layer whose attention has a bias by distances, and a second sum of values weighted by directions."""

    def __init__(self, config: PeriodicTransformerConfig) -> None:
        super().__init__(config)
        self.bias = nn.Linear(2 * config.n_radial, config.n_heads, bias=False)
        self.along = nn.Linear(config.n_radial, config.n_heads, bias=False)
        self.out_directed = nn.Linear(3 * config.width, config.width, bias=False)

    def forward(self, x: Tensor, padding: Padding, pairs: Pairs) -> Tensor:  # type: ignore[override]
        """Update features `x` [n_atoms, D]."""
        plain, directed = self._look(self.attention_norm(x), padding, pairs)
        x = x + self._drop(self.out(plain) + self.out_directed(directed))
        return x + self._drop(self.feedforward(self.feedforward_norm(x)))

    def _look(self, x: Tensor, padding: Padding, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Output of attention: [n_atoms, D] without directions, and [n_atoms, 3 D] with directions."""
        q, k, v = self._queries_keys_values(x, padding)
        bias = pairs.padded(self.bias(pairs.distances)).permute(
            0, 3, 1, 2
        )  # [n_structures, n_heads, max_atoms, max_atoms]
        weights = attention_weights(q, k, padding.mask[:, None, None, :], bias).to(v.dtype)
        if is_attention_wanted():
            hand_padded(weights, padding)
        weights = functional.dropout(weights, self.dropout, self.training)
        along = pairs.padded(self.along(pairs.directions)).permute(0, 4, 3, 1, 2)  # [n_structures, n_heads, 3, ...]
        directed = (weights[:, :, None] * along) @ v[:, :, None]  # [n_structures, n_heads, 3, max_atoms, D_h]
        mixed = weights @ v
        return (
            padding.flat(mixed.transpose(1, 2).flatten(2)),
            padding.flat(directed.permute(0, 3, 2, 1, 4).flatten(2)),
        )


class PeriodicTransformer(EncoderModel):
    """Model of energy, forces and stress by attention among all atoms of a crystal."""

    def __init__(self, config: PeriodicTransformerConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(119, config.width)  # row 0 is no element
        self.geometry = PairGeometry(config.cutoff, config.n_radial)
        self.add_layers(config, PeriodicLayer)

    def embed(self, data: AtomicBatch) -> Tensor:
        padding = Padding.of(data)
        pairs = self.geometry(data, padding)  # the same for all layers
        return self.through_layers(self.embedding(data.atomic_numbers), padding, pairs)


def build(config: PeriodicTransformerConfig, info: DatasetInfo) -> nn.Module:
    """Build the model. The facts in `info` have no effect."""
    return PeriodicTransformer(config)


def ladder(n_params: int) -> PeriodicTransformerConfig:
    """Choose a model with about `n_params` parameters, as for the plain transformer; cutoff and expansion are fixed."""
    return encoder_ladder(n_params, PeriodicTransformerConfig, build)


def step_flops(config: PeriodicTransformerConfig, shape: BatchShape) -> float:
    """FLOPs of a training step: three times the FLOPs of the forward, but twice for products of geometry with weights.

    Geometry needs no gradient. Attention counts pairs of atoms in the same structure, without padding.
    """
    # q·k, A v, three times A u v; bias and directions
    per_pair = 3 * 5 * config.width + 2 * 5 * config.n_radial * config.n_heads
    products = 3.0 * config.multiply_adds(7) * shape.n_atoms
    return 2.0 * (products + config.n_layers * per_pair * shape.sum_atoms_squared)


@hookimpl
def register_architectures() -> list[Architecture]:
    return [
        Architecture(
            name="transformer-periodic",
            summary="Transformer over a crystal: attention biased by distances to images; not equivariant.",
            reference="arXiv:2509.21811",
            config=PeriodicTransformerConfig,
            build=build,
            ladder=ladder,
            dial=DIAL,
            claims=frozenset({"permutation", "translation", "periodic", "smooth"}),
            forces="direct",
            graph=lambda config: Graph.radius(config.cutoff, dense=True),
            sizes={name: PeriodicTransformerConfig(**shape, head_layers=3) for name, shape in SHAPES.items()},
            step_flops=step_flops,
            compiles=True,
            shows_attention=True,
            rotates=True,
        )
    ]
