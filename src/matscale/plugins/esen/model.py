r"""eSEN: smooth equivariant messages between atoms, whose features are functions on the sphere.

    x⁰_i   = a(Z_i) Y_00 + Σ_{j -> i} u(d_ij) R_e^T r(d_ij, Z_i, Z_j) / 5             element, and degree of the graph
    x     <- x + EdgeWise(norm x)                                                    n_layers times,
    x     <- x + AtomWise(norm x)                                                    each in turn (`blocks`)
    E_s    = Σ_{i in s} MLP((norm x)_{l=0})                                          forces and stress: derivatives of
                                                                                     E, or l = 1 and l = 2 (`heads`)

R_e rotates the edge e onto the polar axis, where messages keep the orders |m| ≤ mmax; u is an envelope with two
vanishing derivatives at the cutoff. Frames, envelope, norms and gates are smooth functions of the positions, also where
an edge lies along the polar axis, and all neighbours count. Energies are therefore smooth, and forces conservative.

Fu, Wood, Barroso-Luque, Levine, Gao, Dzamba & Zitnick, arXiv:2502.12147. With fairchem's weights it gives the numbers
of its eSEN (`eSCNMDBackbone`), the backbone of UMA without mixture of experts.

Shapes: C channels, K = (lmax+1)² coefficients per atom.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from matscale.plugin import (
    AtomicBatch,
    DatasetInfo,
    Graph,
    Outputs,
    check_batch_elements,
    check_data_elements,
    sphere,
)
from matscale.plugins.esen.blocks import Block, radial_network
from matscale.plugins.esen.config import ESENConfig, idle_parameters
from matscale.plugins.esen.heads import EnergyHead, ForcesHead, StressHead

DEGREE = 5.0
"""Divisor of the edge-degree embedding; a constant of the published models, not the mean degree of the data."""


class ESEN(nn.Module):
    """Model of the energy and, with direct forces, of forces and stress of a batch."""

    def __init__(self, config: ESENConfig) -> None:
        super().__init__()
        self.config = config
        lmax, mmax, channels, width = config.lmax, config.mmax, config.channels, config.edge_channels
        is_s2, rows = config.activation == "s2", config.max_atomic_number + 1  # row 0 is no element
        self.edge_frames = sphere.EdgeFrames(
            *(lmax, mmax, config.cutoff, config.n_radial),
            name="esen",
            passage=is_s2 and config.is_smooth,
            rescaled=False,
        )
        self.edge_grid = sphere.SphereGrid(lmax, config.edge_grid, mmax, scale="integral") if is_s2 else None
        has_atom_grid = config.feed_forward == "grid"
        self.atom_grid = sphere.SphereGrid(lmax, config.atom_grid, scale="integral") if has_atom_grid else None
        self.element = nn.Embedding(rows, channels)
        self.system = nn.Parameter(torch.zeros(channels)) if config.system_vector else None
        self.source, self.target = nn.Embedding(rows, width), nn.Embedding(rows, width)
        sphere.start_small(self.source, self.target)
        radial = radial_network(config, (lmax + 1) * channels)
        self.edge_degree = sphere.EdgeDegree(lmax, radial, DEGREE)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = sphere.make_norm(config.norm, lmax, channels)
        self.energy = EnergyHead(config)
        if config.forces == "direct":
            self.forces = ForcesHead(config)
        if config.predicts_stress:
            self.stress = StressHead(config)

    def forward(self, data: AtomicBatch) -> Outputs:
        x = self._run(data)
        energy = self.energy(x, data)
        if self.config.forces == "gradient":
            return Outputs(energy=energy)
        stress = self.stress(x, data) if self.config.predicts_stress else None
        return Outputs(energy=energy, forces=self.forces(x), stress=stress)

    def embed(self, data: AtomicBatch) -> Tensor:
        """Features of atoms, [n_atoms, C]: the invariant part (l = 0) of the coefficients that the heads read."""
        return self._run(data)[:, 0]

    def _run(self, data: AtomicBatch) -> Tensor:
        """Normalised coefficients of atoms [n_atoms, K, C] after the last block."""
        check_batch_elements("esen", data.atomic_numbers, self.config.max_atomic_number)
        edges = self.embed_edges(data)
        system = None if self.system is None else self._scalars(self.system[None])
        x = self.embed_graph(data, edges)
        for block in self.blocks:
            x = block(x, edges, system, self.edge_grid, self.atom_grid)
        normalised: Tensor = self.norm(x)
        return normalised

    def embed_edges(self, data: AtomicBatch) -> sphere.Edges:
        """Make the edges of a batch, with the embeddings of both elements beside the Gaussians."""
        edges: sphere.Edges = self.edge_frames(data)
        return replace(edges, basis=sphere.with_elements(edges, self.source, self.target))

    def embed_graph(self, data: AtomicBatch, edges: sphere.Edges) -> Tensor:
        """Initial coefficients of atoms [n_atoms, K, C], from elements and edges."""
        scalars = self.element(data.atomic_numbers)
        if self.system is not None:
            scalars = scalars + self.system
        neighbors: Tensor = self.edge_degree(edges)
        return neighbors + self._scalars(scalars)

    def _scalars(self, x: Tensor) -> Tensor:
        """Coefficients [n, K, C] of which only the scalars `x` [n, C] are not zero."""
        return nn.functional.pad(x[:, None], (0, 0, 0, self.config.n_coefficients - 1))

    def recomputable(self) -> list[nn.Module]:
        """Modules that activation checkpointing may run again (`matscale.core.model.activation_checkpointing`)."""
        return list(self.blocks)

    def idle_parameters(self) -> frozenset[str]:
        """Names of parameters that no output depends on; see `matscale.plugins.esen.config`."""
        return idle_parameters(self.config)


def graph(config: ESENConfig) -> Graph:
    """Graph of all neighbours within the cutoff, or of the nearest ones by the published rule."""
    if config.is_smooth:
        return Graph.radius(config.cutoff)
    return Graph.nearest(config.cutoff, config.max_neighbors, strict=False)


def build(config: ESENConfig, info: DatasetInfo) -> nn.Module:
    """Build the model. Raises ConfigError if the data hold an element without a row in the embeddings."""
    check_data_elements("esen", info, config.max_atomic_number)
    return ESEN(config)
