"""Blocks of GemNet: interaction blocks update the features of edges and atoms, output blocks read them out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from matscale.plugin import full_precision
from matscale.plugins.gemnet.config import GemNetConfig
from matscale.plugins.gemnet.geometry import Geometry
from matscale.plugins.gemnet.interactions import (
    EdgeAtomInteraction,
    PairInteraction,
    QuadrupletInteraction,
    TripletInteraction,
)
from matscale.plugins.gemnet.layers import SQRT_HALF, Dense, PairDense, Residual, Scale, network


@dataclass(frozen=True)
class Bases:
    """Projected bases of a batch, the same for all layers; None for interactions that are switched off.

    A radial basis depends on a distance, a circular one also on an angle, a spherical one also on a dihedral. I and S
    are numbers of projected functions, L is the number of Legendre polynomials.
    """

    radial: Tensor
    """[n_edges, R] Gaussians of distances."""
    update: Tensor
    """Radial basis [n_edges, I], for sums over the edges of an atom."""
    output: Tensor
    """Radial basis [n_edges, I], for output blocks."""
    triplet: tuple[Tensor, Tensor]
    """Radial basis [n_edges, I] and circular basis [n_edges, I, L]."""
    quadruplet: tuple[Tensor, Tensor, Tensor] | None
    """Radial basis [n_edges, I], circular basis [n_in_triplets, I] and spherical basis [n_edges, S, L²]."""
    atom_edge: tuple[Tensor, Tensor] | None
    """Radial basis [n_pairs, I] and circular basis [n_edges, I, L]."""
    edge_atom: tuple[Tensor, Tensor] | None
    """Radial basis [n_edges, I], and sums over the angles around an edge [n_edges, I]."""
    atom_atom: Tensor | None
    """Radial basis [n_far, I]."""


class AtomSum(nn.Module):
    """Layer that sums m ∘ R e over the edges of an atom: features m times a linear map R of the radial basis e."""

    def __init__(self, config: GemNetConfig) -> None:
        super().__init__()
        self.radial = Dense(config.radial_embedding, config.edge_channels, activate=False)
        self.scale = Scale()

    def forward(self, m: Tensor, basis: Tensor, geometry: Geometry) -> Tensor:
        """Sum the features `m` [n_edges, E] of the edges of each atom; returns [n_atoms, E]."""
        message = m * self.radial(basis)
        summed: Tensor = self.scale(geometry.to_atoms(message), m)
        return summed


class InteractionBlock(nn.Module):
    """Interaction block: updates edges and atoms by one more round of messages."""

    def __init__(self, config: GemNetConfig) -> None:
        super().__init__()
        c, atom, edge = config, config.atom_channels, config.edge_channels
        radial, circular = c.radial_embedding, c.circular_embedding
        triplet = (radial, circular, c.triplet_in, c.triplet_out)
        self.skip = Dense(edge, edge)
        self.triplet = TripletInteraction(edge, *triplet, edge)
        self.quadruplet = (
            QuadrupletInteraction(edge, radial, circular, c.spherical_embedding, c.quadruplet_in, c.quadruplet_out)
            if c.quadruplets
            else None
        )
        self.atom_edge = TripletInteraction(atom, *triplet, edge) if c.atom_edge else None
        self.edge_atom = EdgeAtomInteraction(edge, *triplet, atom) if c.edge_atom else None
        self.atom_atom = PairInteraction(atom, radial, c.pair_in, c.pair_out) if c.atom_atom else None
        self.before_skip = nn.Sequential(*(Residual(edge) for _ in range(c.n_before_skip)))
        self.after_skip = nn.Sequential(*(Residual(edge) for _ in range(c.n_after_skip)))
        self.atom_before = nn.Sequential(*(Residual(atom) for _ in range(c.n_atom_before)))
        self.atom_sum = AtomSum(config)
        self.atom = network(edge, atom, c.n_atom, project=c.always_project)
        self.concat = PairDense(atom, edge, edge)
        self.after_concat = nn.Sequential(*(Residual(edge) for _ in range(c.n_concat)))

    def forward(self, h: Tensor, m: Tensor, bases: Bases, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """Update the features of atoms, `h` [n_atoms, A], and edges, `m` [n_edges, E]."""
        to_edges, to_atoms = self._messages(h, m, bases, geometry)
        x = self.before_skip(_mean(to_edges))
        m = self.after_skip((m + x) * SQRT_HALF)
        h = self._atoms(_mean([h, *to_atoms]), m, bases.update, geometry)
        learned = self.after_concat(self.concat(h, m, geometry.sources, geometry.targets))
        return h, (m + learned) * SQRT_HALF

    @full_precision
    def _atoms(self, h: Tensor, m: Tensor, basis: Tensor, geometry: Geometry) -> Tensor:
        """Update atoms in full precision, since the energy depends on them, and they are fewer than edges."""
        h = self.atom_before(h)
        learned: Tensor = self.atom(self.atom_sum(m, basis, geometry))
        return (h + learned) * SQRT_HALF

    def _messages(self, h: Tensor, m: Tensor, bases: Bases, geometry: Geometry) -> tuple[list[Tensor], list[Tensor]]:
        g, swap = geometry, geometry.swap
        to_edges, to_atoms = [self.skip(m), self.triplet(m, *bases.triplet, g.triplets, swap)], []
        if self.quadruplet is not None and bases.quadruplet is not None:
            to_edges.append(self.quadruplet(m, *bases.quadruplet, g.dihedrals, swap))
        if self.atom_edge is not None and bases.atom_edge is not None and g.pair_sources is not None:
            to_edges.append(self.atom_edge(h, *bases.atom_edge, g.pair_angles, swap, g.pair_sources))
        if self.edge_atom is not None and bases.edge_atom is not None:
            to_atoms.append(self.edge_atom(m, *bases.edge_atom, g.edge_degree, g.rank))
        if self.atom_atom is not None and g.far_sources is not None:
            to_atoms.append(self.atom_atom(h, bases.atom_atom, g.far_sources, g.far_degree, g.far_rank))
        return to_edges, to_atoms


def _mean(parts: list[Tensor]) -> Tensor:
    """Sum the n parts and divide by √n, which preserves the variance if they are independent."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total if len(parts) == 1 else total * (1 / math.sqrt(len(parts)))


class OutputBlock(nn.Module):
    """Output block: features of atoms for the energy, and of edges for the forces, at one stage of the network."""

    def __init__(self, config: GemNetConfig) -> None:
        super().__init__()
        c, atom, edge = config, config.atom_channels, config.edge_channels
        self.atom_sum = AtomSum(config)
        self.atom = network(edge, atom, c.n_atom, project=c.always_project)
        self.atom_after = network(atom, atom, c.n_output_after, project=c.always_project) if c.n_output_after else None
        self.edge: nn.Sequential | None = None
        if c.forces == "direct":
            self.edge = network(edge, edge, c.n_atom, project=c.always_project)
            self.edge_radial = Dense(c.radial_embedding, edge, activate=False)
            self.edge_scale = Scale()

    def forward(self, h: Tensor, m: Tensor, basis: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor | None]:
        """Compute features of atoms [n_atoms, A] and, with direct forces, of edges [n_edges, E]."""
        of_atoms = self._atoms(h, m, basis, geometry)
        if self.edge is None:
            return of_atoms, None
        of_edges = self.edge(m)
        return of_atoms, self.edge_scale.product(of_edges, self.edge_radial, basis)

    @full_precision
    def _atoms(self, h: Tensor, m: Tensor, basis: Tensor, geometry: Geometry) -> Tensor:
        of_atoms: Tensor = self.atom(self.atom_sum(m, basis, geometry))
        if self.atom_after is not None:
            of_atoms = self.atom_after((of_atoms + h) * SQRT_HALF)
        return of_atoms


class Readout(nn.Module):
    """Readout of all output blocks: a sum of one prediction per block, or one network on the features of all blocks."""

    def __init__(self, width: int, n_blocks: int, n_joint_layers: int | None, n_out: int) -> None:
        super().__init__()
        joint = n_joint_layers is not None
        self.joint = network(width * n_blocks, width, n_joint_layers or 0, project=True) if joint else None
        # Its output starts near zero, which is the mean of the data in a potential.
        self.out = nn.Parameter(0.01 * torch.randn(1 if joint else n_blocks, n_out, width))

    @full_precision
    def forward(self, *outputs: Tensor) -> Tensor:
        """Predict [n, n_out] from the features [n, width] of each output block."""
        if self.joint is not None:
            return nn.functional.linear(self.joint(torch.cat(outputs, dim=1)), self.out[0])
        return sum(nn.functional.linear(x, w) for x, w in zip(outputs, self.out))  # type: ignore[return-value]
