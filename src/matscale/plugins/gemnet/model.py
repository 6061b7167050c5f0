r"""GemNet: message passing between directed edges, with the angles and dihedrals between them.

    h_i = a(Z_i),   m_ji = σ(W [h_j, h_i, g(d_ji)])                                  [n_atoms, A], [n_edges, E]
    per block: m ← messages of triplets (and quadruplets, atoms), h ← Σ_j m_ji ∘ R e(d_ji), m ← m + f(h, h, m)
    E_s = Σ_{i in s} u(h_i, m),   F_i = −Σ_j φ_ji d̂_ji,   σ_s = mean_i Σ_j (τ_ji (d̂ d̂ᵀ − 1/3) + π_ji 1/3)

d̂ is the unit vector from i to its neighbour, g are Gaussians with an envelope that vanishes at the cutoff; the energy
and the magnitudes φ, τ, π along edges are read out after each block. With gradient forces the core derives F and σ from
E.

GemNet: arXiv:2106.08903 (T, dT); GemNet-OC: arXiv:2204.02782. With the same weights, the numbers equal those of
fairchem's models, which have no stress. They are computed in another way: see `angles`, `dihedrals`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from matscale.plugin import (
    AtomicBatch,
    DatasetInfo,
    Outputs,
    check_data_elements,
    full_precision,
    mean_by_structure,
    sum_by_structure,
)
from matscale.plugins.gemnet.angles import legendre
from matscale.plugins.gemnet.blocks import Bases, InteractionBlock, OutputBlock, Readout
from matscale.plugins.gemnet.config import GemNetConfig
from matscale.plugins.gemnet.geometry import Geometry, RadialBasis
from matscale.plugins.gemnet.interactions import circular_of, empty_weight, radial_matrices
from matscale.plugins.gemnet.layers import Dense, PairDense, fitting


class Projections(nn.Module):
    """Linear maps of the bases of distances and angles to fewer functions, shared by all blocks."""

    def __init__(self, config: GemNetConfig) -> None:
        super().__init__()
        c, n_r, n_l = config, config.n_radial, config.n_spherical
        radial, circular = c.radial_embedding, c.circular_embedding

        def linear() -> Dense:
            return Dense(n_r, radial, activate=False)

        def matrices(n_embedding: int, n_angular: int) -> nn.Parameter:
            return nn.Parameter(empty_weight(n_r, n_embedding, n_angular))

        self.config = config
        self.basis = RadialBasis(c.cutoff, n_r)
        self.update, self.output, self.triplet_radial = linear(), linear(), linear()
        self.triplet_circular = matrices(circular, n_l)
        if c.quadruplets:
            self.middle_basis = RadialBasis(c.rule("quadruplets").cutoff, n_r)
            self.quadruplet_radial, self.quadruplet_circular = linear(), matrices(circular, n_l)
            self.quadruplet_spherical = matrices(c.spherical_embedding, n_l**2)
        if c.atom_edge or c.edge_atom:
            self.pair_basis = RadialBasis(c.rule("atom_edge").cutoff, n_r)
        if c.atom_edge:
            self.atom_edge_radial, self.atom_edge_circular = linear(), matrices(circular, n_l)
        if c.edge_atom:
            self.edge_atom_radial, self.edge_atom_circular = linear(), matrices(circular, n_l)
        if c.atom_atom:
            self.far_basis = RadialBasis(c.rule("atom_atom").cutoff, n_r)
            self.atom_atom = linear()

    @full_precision
    def forward(self, geometry: Geometry) -> Bases:
        radial = self.basis(geometry.edges.distance)
        pairs = None if geometry.pairs is None else self.pair_basis(geometry.pairs.distance)
        return Bases(
            radial=radial,
            update=self.update(radial),
            output=self.output(radial),
            triplet=(self.triplet_radial(radial), radial_matrices(radial, self.triplet_circular)),
            quadruplet=self._quadruplet(radial, geometry),
            atom_edge=self._atom_edge(radial, pairs),
            edge_atom=self._edge_atom(radial, pairs, geometry),
            atom_atom=None if geometry.far is None else self.atom_atom(self.far_basis(geometry.far.distance)),
        )

    def _quadruplet(self, radial: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor, Tensor] | None:
        middle, dihedrals = geometry.middle, geometry.dihedrals
        if middle is None or dihedrals is None:
            return None
        matrices = radial_matrices(self.middle_basis(middle.distance), self.quadruplet_circular)
        circular = circular_of(matrices, legendre(dihedrals.cos_in, self.config.n_spherical), dihedrals.ins_middle)
        return self.quadruplet_radial(radial), circular, radial_matrices(radial, self.quadruplet_spherical)

    def _atom_edge(self, radial: Tensor, pairs: Tensor | None) -> tuple[Tensor, Tensor] | None:
        if not self.config.atom_edge or pairs is None:
            return None
        return self.atom_edge_radial(pairs), radial_matrices(radial, self.atom_edge_circular)

    def _edge_atom(self, radial: Tensor, pairs: Tensor | None, geometry: Geometry) -> tuple[Tensor, Tensor] | None:
        if geometry.edge_pair_angles is None or pairs is None:
            return None
        matrices = radial_matrices(pairs, self.edge_atom_circular)
        return self.edge_atom_radial(radial), geometry.edge_pair_angles.contracted(matrices)


class GemNet(nn.Module):
    """Model of the energy and, with direct forces, of forces and stress of a batch."""

    def __init__(self, config: GemNetConfig) -> None:
        super().__init__()
        self.config = config
        self.element = nn.Embedding(config.max_atomic_number, config.atom_channels)  # row Z − 1
        nn.init.uniform_(self.element.weight, -(3**0.5), 3**0.5)
        self.project = Projections(config)
        self.edge = PairDense(config.atom_channels, config.n_radial, config.edge_channels)
        self.blocks = nn.ModuleList(InteractionBlock(config) for _ in range(config.n_layers))
        self.outputs = nn.ModuleList(OutputBlock(config) for _ in range(config.n_layers + 1))
        stages = (config.n_layers + 1, config.n_joint_layers)
        self.energy = Readout(config.atom_channels, *stages, n_out=1)
        if config.forces == "direct":
            # Magnitudes along each edge: the force, and the deviatoric part and the trace of the stress.
            self.along = Readout(config.edge_channels, *stages, n_out=3 if config.predicts_stress else 1)

    def forward(self, data: AtomicBatch) -> Outputs:
        geometry = self.geometry(data)
        of_atoms, of_edges = zip(*self._stages(data, geometry))
        energy = sum_by_structure(self.energy(*of_atoms).squeeze(1), data)
        if self.config.forces == "gradient":
            return Outputs(energy=energy)
        return self._along_edges(energy, self.along(*of_edges), geometry, data)

    def embed(self, data: AtomicBatch) -> Tensor:
        """Features of atoms, [n_atoms, atom_channels], from the last output block."""
        return list(self._stages(data, self.geometry(data)))[-1][0]

    def _stages(self, data: AtomicBatch, geometry: Geometry) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the features of atoms and edges from each output block: before the first and after each interaction."""
        bases = self.project(geometry)
        h = self.element(data.atomic_numbers - 1)
        m = self.edge(h, bases.radial, geometry.sources, geometry.targets)
        yield self.outputs[0](h, m, bases.output, geometry)
        for block, output in zip(self.blocks, self.outputs[1:]):
            h, m = block(h, m, bases, geometry)
            yield output(h, m, bases.output, geometry)

    @full_precision
    def geometry(self, data: AtomicBatch) -> Geometry:
        """Graphs and angles of a batch."""
        return Geometry.of(self.config, data)

    @full_precision
    def _along_edges(self, energy: Tensor, along: Tensor, geometry: Geometry, data: AtomicBatch) -> Outputs:
        """Sum the magnitudes along the edges, `along` [n_edges, 1 or 3], to forces and stress."""
        unit, target = geometry.edges.unit, geometry.edges.target
        # Away from the neighbour: positive magnitudes are repulsive.
        forces = unit.new_zeros(data.n_atoms, 3).index_add(0, target, -along[:, :1] * unit)
        if not self.config.predicts_stress:
            return Outputs(energy=energy, forces=forces)
        third = torch.eye(3, dtype=unit.dtype, device=unit.device) / 3
        deviatoric, trace = along[:, 1, None, None], along[:, 2, None, None]
        tensors = deviatoric * (unit[:, :, None] * unit[:, None, :] - third) + trace * third
        per_atom = unit.new_zeros(data.n_atoms, 3, 3).index_add(0, target, tensors)
        return Outputs(energy=energy, forces=forces, stress=mean_by_structure(per_atom, data))

    @torch.no_grad()
    def prepare(self, batches: Sequence[AtomicBatch]) -> None:
        """Measure the missing scale factors in one forward pass; each factor includes the effect of those before it."""
        with fitting():
            self(AtomicBatch.join(list(batches)))

    def recomputable(self) -> list[nn.Module]:
        """Modules that activation checkpointing may run again (`matscale.core.model.activation_checkpointing`)."""
        return [*self.blocks, *self.outputs]


def build(config: GemNetConfig, info: DatasetInfo) -> nn.Module:
    """Build the model. Raises ConfigError if the data hold an element without a row in the embedding."""
    check_data_elements("gemnet", info, config.max_atomic_number)
    return GemNet(config)
