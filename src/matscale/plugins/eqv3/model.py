r"""EquiformerV3: equivariant graph attention between atoms, whose features are functions on the sphere.

    x⁰_i   = a(Z_i) Y_00 + Σ_{j -> i} u(d_ij) R_e^T r(d_ij, Z_i, Z_j) / mean_degree   element, and degree of the graph
    x     <- x + Attention(norm x)                                                    n_layers times,
    x     <- x + FeedForward(norm x)                                                  each in turn
    E_s    = Σ_{i in s} MLP((norm x)_{l=0}) / mean_atoms
    F_i    = Attention(norm x)_{l=1},     σ_s from l = 0 and l = 2                    or derivatives of E (`forces`)

R_e rotates the edge e onto the polar axis, where messages keep the orders |m| ≤ mmax (`attention`); u is an envelope
with two vanishing derivatives at the cutoff. One norm has a common scale for all degrees. Activations are gates of
scalars and products of functions, which a grid of the sphere computes exactly: the model commutes with rotations up to
rounding errors. All neighbours within the cutoff count, so that energies are smooth and forces conservative.

EquiformerV3, arXiv:2604.09130. With its authors' weights it gives the numbers of their code.

With `denoising`, `EqV3.denoise` predicts the noise of structures whose forces before the noise are known (DeNS, Liao,
Smidt & Das, arXiv:2403.09549).

Shapes: C channels, K = (lmax+1)² coefficients per atom.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from e3nn import o3
from torch import Tensor, nn

from matscale.plugin import (
    AtomicBatch,
    ConfigError,
    DatasetInfo,
    Graph,
    Outputs,
    check_batch_elements,
    check_data_elements,
    full_precision,
    sphere,
)
from matscale.plugins.eqv3.attention import radial_network
from matscale.plugins.eqv3.blocks import Block
from matscale.plugins.eqv3.config import EqV3Config, idle_parameters
from matscale.plugins.eqv3.heads import EnergyHead, ForcesHead, StressHead


class EqV3(nn.Module):
    """Model of the energy and, with direct forces, of forces and stress of a batch."""

    def __init__(self, config: EqV3Config) -> None:
        super().__init__()
        self.config = config
        lmax, mmax, channels = config.lmax, config.mmax, config.channels
        self.edge_frames = sphere.EdgeFrames(lmax, mmax, config.cutoff, config.n_radial, name="eqv3")
        edge_grid, atom_grid = config.edge_grid, config.atom_grid
        self.edge_grid = sphere.SphereGrid(lmax, edge_grid.resolution, mmax, edge_grid.kind)
        self.atom_grid = sphere.SphereGrid(lmax, atom_grid.resolution, grid=atom_grid.kind)
        self.element = nn.Embedding(config.max_atomic_number + 1, channels)  # row 0 is no element
        radial = radial_network(config, (lmax + 1) * channels)
        self.edge_degree = sphere.EdgeDegree(lmax, radial, config.mean_degree)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = sphere.make_norm("rms_norm_sh", lmax, channels)
        self.energy = EnergyHead(config)
        if config.forces == "direct":
            self.forces = ForcesHead(config)
        if config.predicts_stress:
            self.stress = StressHead(config)
        if config.denoising:
            self.encode_forces = sphere.SO3Linear(lmax, 1, channels)
            self.noise = ForcesHead(config)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, data: AtomicBatch) -> Outputs:
        edges = self.embed_edges(data)
        outputs = self.read_out(self._run(data, edges), edges, data)
        if self.config.denoising and torch.is_grad_enabled():
            # Parameters for denoising get gradients of zero: processes that share gradients wait for each of them.
            unused = torch.stack([p.sum() for part in (self.encode_forces, self.noise) for p in part.parameters()])
            outputs = replace(outputs, energy=outputs.energy + 0.0 * unused.sum())
        return outputs

    def denoise(self, data: AtomicBatch, forces: Tensor, noised: Tensor, structures: Tensor) -> Outputs:
        """Predict the noise of atoms in structures to which noise was added; needs the option `denoising`.

        `forces` [n_atoms, 3] are the forces before the noise, in eV/Å; they tell the model which structure is meant.
        `noised` [n_atoms] says which atoms have noise: for these, the forces in the output are the noise. `structures`
        [n_structures] says which structures have noise: their stress is zero, so that it does not enter a loss.
        """
        if not self.config.denoising:
            raise ConfigError("eqv3: this model has no head for noise. Make it with denoising = true.")
        edges = self.embed_edges(data)
        x = self._run(data, edges, self.embed_forces(forces) * noised[:, None, None])
        outputs = self.read_out(x, edges, data)
        noise: Tensor = self.noise(x, edges)
        found = noise if outputs.forces is None else torch.where(noised[:, None].bool(), noise, outputs.forces)
        stress = outputs.stress
        if stress is not None:
            stress = stress * (1 - structures[:, None, None].to(stress.dtype))
        return replace(outputs, forces=found, stress=stress)

    def embed(self, data: AtomicBatch) -> Tensor:
        """Features of atoms, [n_atoms, C]: the invariant part (l = 0) of the coefficients that the heads read."""
        return self._run(data, self.embed_edges(data))[:, 0]

    def _run(self, data: AtomicBatch, edges: sphere.Edges, more: Tensor | None = None) -> Tensor:
        """Normalised coefficients of atoms [n_atoms, K, C] after the last block; `more` is added to the first ones."""
        x = self.embed_graph(data, edges)
        if more is not None:
            x = x + more
        for block in self.blocks:
            x = block(x, edges, self.edge_grid, self.atom_grid, data.batch, data.n_structures)
        normalised: Tensor = self.norm(x)
        return normalised

    def embed_edges(self, data: AtomicBatch) -> sphere.Edges:
        """Make the edges of a batch."""
        check_batch_elements("eqv3", data.atomic_numbers, self.config.max_atomic_number)
        edges: sphere.Edges = self.edge_frames(data)
        return edges

    def embed_graph(self, data: AtomicBatch, edges: sphere.Edges) -> Tensor:
        """Initial coefficients of atoms [n_atoms, K, C], from elements and edges."""
        scalars = self.element(data.atomic_numbers)[:, None]
        neighbors: Tensor = self.edge_degree(edges)
        return neighbors + nn.functional.pad(scalars, (0, 0, 0, self.config.n_coefficients - 1))

    @full_precision
    def embed_forces(self, forces: Tensor) -> Tensor:
        """Encoding of forces [n_atoms, 3]: coefficients [n_atoms, K, C] from harmonics of their direction.

        Harmonics are multiplied by |f|/√3, which gives l = 1 the components of the force.
        """
        length = torch.linalg.vector_norm(forces, dim=-1)[:, None]
        degrees = list(range(self.config.lmax + 1))
        harmonics = o3.spherical_harmonics(degrees, forces, normalize=True, normalization="component")
        encoded: Tensor = self.encode_forces((harmonics * length / math.sqrt(3))[:, :, None])
        return encoded

    def read_out(self, x: Tensor, edges: sphere.Edges, data: AtomicBatch) -> Outputs:
        """Compute the outputs from the normalised coefficients of atoms, `x` [n_atoms, K, C]."""
        energy = self.energy(x, data)
        if self.config.forces == "gradient":
            return Outputs(energy=energy)
        stress = self.stress(x, data) if self.config.predicts_stress else None
        return Outputs(energy=energy, forces=self.forces(x, edges), stress=stress)

    def recomputable(self) -> list[nn.Module]:
        """Modules that activation checkpointing may run again (`matscale.core.model.activation_checkpointing`)."""
        return list(self.blocks)

    def idle_parameters(self) -> frozenset[str]:
        """Names of parameters that no output of `forward` depends on; see `matscale.plugins.eqv3.config`."""
        denoising = [n for n, _ in self.named_parameters() if n.startswith(("noise.", "encode_forces."))]
        return idle_parameters(self.config).union(denoising)


def graph(config: EqV3Config) -> Graph:
    """Graph of all neighbours within the cutoff, or of the nearest ones by the published rule."""
    if config.is_smooth:
        return Graph.radius(config.cutoff)
    return Graph.nearest(config.cutoff, config.max_neighbors, strict=True)


def build(config: EqV3Config, info: DatasetInfo) -> nn.Module:
    """Build the model. Raises ConfigError if the data hold an element without a row in the embeddings."""
    check_data_elements("eqv3", info, config.max_atomic_number)
    return EqV3(config)
