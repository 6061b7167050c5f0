r"""PaiNN: message passing between atoms with scalar and vector features, here over all images within a cutoff.

    s⁰_i = a(Z_i),  v⁰_i = 0                                                             [n_atoms, F], [n_atoms, 3, F]

    message   x_ij = φ(s_j) ∘ f_c(d_ij) (W g(d_ij) + b),  in three parts x^s, x^r, x^v             3 × [n_edges, F]
              s_i  ← s_i + Σ_j x^s_ij
              v_i  ← v_i + Σ_j x^r_ij r̂_ij + Σ_j x^v_ij ∘ v_j

    update    a^ss, a^sv, a^vv = a(s_i, |V v_i|)                                                   3 × [n_atoms, F]
              s_i  ← s_i + a^ss + a^sv ∘ ⟨U v_i, V v_i⟩
              v_i  ← v_i + a^vv ∘ U v_i

    energy    E_s  = Σ_{i in s} e(s_i)                                                             [n_structures]

r̂_ij points from the centre i to the neighbour j, g_n(d) = sin(nπd/c)/d, f_c is the cosine cutoff; φ, a and e are MLPs
with SiLU, U and V mix channels. Scalars are multiplied by anything, vectors only by scalars and summed, so that s is
invariant and v turns with the structure.

`forces = "gradient"`: forces and stress are derivatives of E, which the core takes; f_c and its slope vanish at the
cutoff, so they are continuous. `forces = "direct"`: forces by two gated equivariant blocks (figure 3 of the paper). The
paper has no stress. Here it is σ_s = mean_{i in s} [p(s_i) 1 + Σ_j f_c(d_ij) w(s_j, d_ij) r̂_ij r̂_ijᵀ], a virial with
learned weights: products v vᵀ instead would leave no shear where every atom is a centre of inversion.

As in the paper, the first message has no vectors to pass on and the last update makes vectors that the energy does not
use: F × F + F weights of each are idle, and counted.

Schütt, Unke, Gastegger, arXiv:2102.03150.
Shapes: n_edges directed edges j -> i, R radial functions, F channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from matscale.plugin import (
    CLAIMS,
    Architecture,
    ArchitectureConfig,
    AtomicBatch,
    DatasetInfo,
    Graph,
    Outputs,
    closest,
    cosine_cutoff,
    full_precision,
    graded,
    hookimpl,
    mean_by_structure,
    sum_by_structure,
)

API_VERSION = (1, 0)


class PainnConfig(ArchitectureConfig):
    """Configuration of PaiNN."""

    width: int = Field(default=128, ge=1)
    """Channels F of the scalars and of the vectors of an atom; the dial of the size ladder."""
    hidden: int | None = Field(default=None, ge=1)
    """Hidden channels of φ and of a; by default `width`. The fine dial of the size ladder."""
    n_layers: int = Field(default=3, ge=1)
    """Number of blocks, each with a message and an update."""
    n_radial: int = Field(default=20, ge=1)
    """Number R of radial functions."""
    cutoff: float = Field(default=5.0, gt=0)
    """Interaction radius [Å]."""
    forces: Literal["gradient", "direct"] = "gradient"
    """Forces and stress as derivatives of the energy (`gradient`), or from equivariant heads (`direct`)."""


@dataclass(frozen=True)
class Edges:
    """Edges of a batch, with the functions of their vectors that all layers use."""

    j: Tensor
    """[n_edges] index of the neighbour."""
    i: Tensor
    """[n_edges] index of the centre."""
    direction: Tensor
    """[n_edges, 3] unit vector from centre to neighbour."""
    basis: Tensor
    """[n_edges, R] radial functions g_n of the distance."""
    envelope: Tensor
    """[n_edges, 1] cutoff function f_c of the distance."""

    @classmethod
    def of(cls, batch: AtomicBatch, config: PainnConfig) -> Edges:
        """Make the edges, differentiable in positions and cell, so that forces and stress can be derivatives."""
        j, i = batch.edges()
        vec = batch.edge_vec()  # [n_edges, 3]
        d = torch.linalg.vector_norm(vec, dim=-1, keepdim=True)  # [n_edges, 1]
        n = torch.arange(1, config.n_radial + 1, device=d.device, dtype=d.dtype)
        basis = torch.sin(n * (math.pi / config.cutoff) * d) / d
        return cls(j, i, vec / d, basis, cosine_cutoff(d, config.cutoff))

    def sum_at_centres(self, x: Tensor, n_atoms: int) -> Tensor:
        """Sum over the edges of each centre: [n_edges, ...] -> [n_atoms, ...]"""
        return x.new_zeros(n_atoms, *x.shape[1:]).index_add(0, self.i, x)


class Message(nn.Module):
    """Message: updates an atom's scalars and vectors from those of its neighbours."""

    def __init__(self, config: PainnConfig) -> None:
        super().__init__()
        width = config.width
        self.phi = mlp(width, config.hidden or width, 3 * width)
        self.filter = nn.Linear(config.n_radial, 3 * width)

    def forward(self, s: Tensor, v: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """Add messages to `s` [n_atoms, F] and `v` [n_atoms, 3, F] -> the same shapes"""
        weight = self.filter(edges.basis) * edges.envelope  # [n_edges, 3F]
        x_s, x_r, x_v = (self.phi(s).index_select(0, edges.j) * weight).chunk(3, dim=-1)
        vectors = x_r[:, None] * edges.direction[:, :, None] + x_v[:, None] * v.index_select(0, edges.j)
        n_atoms = s.shape[0]
        return s + edges.sum_at_centres(x_s, n_atoms), v + edges.sum_at_centres(vectors, n_atoms)


class Update(nn.Module):
    """Update: lets the scalars and the vectors of each atom act on each other."""

    def __init__(self, config: PainnConfig) -> None:
        super().__init__()
        width = config.width
        self.mix = nn.Linear(width, 2 * width, bias=False)  # U and V
        self.a = mlp(2 * width, config.hidden or width, 3 * width)

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Update `s` [n_atoms, F] and `v` [n_atoms, 3, F] -> the same shapes"""
        u_v, v_v = self.mix(v).chunk(2, dim=-1)
        a_ss, a_sv, a_vv = self.a(torch.cat([s, length(v_v)], dim=-1)).chunk(3, dim=-1)
        return s + a_ss + a_sv * product(u_v, v_v), v + a_vv[:, None] * u_v


class GatedBlock(nn.Module):
    """Gated equivariant block: maps scalars and vectors to fewer of them.

    Mixed vectors are multiplied by gates, which an MLP computes from the scalars and from lengths of vectors.
    """

    def __init__(self, width: int, n_scalars: int, n_vectors: int) -> None:
        super().__init__()
        self.n_scalars, self.n_vectors = n_scalars, n_vectors
        self.mix = nn.Linear(width, n_vectors + width, bias=False)
        self.gate = mlp(2 * width, width, n_scalars + n_vectors)

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Forward pass: [n_atoms, width], [n_atoms, 3, width] -> [n_atoms, n_scalars], [n_atoms, 3, n_vectors]"""
        kept, measured = self.mix(v).split([self.n_vectors, v.shape[-1]], dim=-1)
        gates = self.gate(torch.cat([s, length(measured)], dim=-1))
        scalars, gate = gates.split([self.n_scalars, self.n_vectors], dim=-1)
        return nn.functional.silu(scalars), gate[:, None] * kept


class ForceHead(nn.Module):
    """Head of the forces: two gated blocks, from which one vector per atom remains."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = max(1, width // 2)
        self.first, self.second = GatedBlock(width, half, half), GatedBlock(half, 0, 1)

    def forward(self, s: Tensor, v: Tensor) -> Tensor:
        """Forward pass: [n_atoms, F], [n_atoms, 3, F] -> [n_atoms, 3]"""
        forces: Tensor
        _, forces = self.second(*self.first(s, v))
        return forces.squeeze(-1)


class StressHead(nn.Module):
    """Head of the stress: a pressure of each atom and a pull along each edge, as a mean over the atoms."""

    def __init__(self, config: PainnConfig) -> None:
        super().__init__()
        half = max(1, config.width // 2)
        self.pressure = mlp(config.width, half, 1)
        self.source = nn.Linear(config.width, half)
        self.filter = nn.Linear(config.n_radial, half)
        self.pull = nn.Sequential(nn.SiLU(), nn.Linear(half, 1))

    def forward(self, s: Tensor, edges: Edges, batch: AtomicBatch) -> Tensor:
        """Forward pass: [n_atoms, F] -> [n_structures, 3, 3]"""
        x = self.filter(edges.basis) * self.source(s).index_select(0, edges.j)
        w = self.pull(x) * edges.envelope  # [n_edges, 1]
        pulls = w[:, :, None] * edges.direction[:, :, None] * edges.direction[:, None, :]  # [n_edges, 3, 3]
        pressure = self.pressure(s)[:, :, None] * torch.eye(3, device=s.device, dtype=s.dtype)  # [n_atoms, 3, 3]
        return mean_by_structure(pressure + edges.sum_at_centres(pulls, batch.n_atoms), batch)


class Painn(nn.Module):
    """Model of the energy and, with direct forces, of forces and stress of a batch."""

    def __init__(self, config: PainnConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(119, config.width)  # Z = 1..118; row 0 is no element
        self.messages = nn.ModuleList(Message(config) for _ in range(config.n_layers))
        self.updates = nn.ModuleList(Update(config) for _ in range(config.n_layers))
        self.energy = mlp(config.width, max(1, config.width // 2), 1)
        if config.forces == "direct":
            self.forces, self.stress = ForceHead(config.width), StressHead(config)
        self._initialise()

    def _initialise(self) -> None:
        """Initialise matrices by Glorot, biases with zero; last layers start near zero, the mean of the data."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        lasts = [self.energy]
        if self.config.forces == "direct":
            lasts += [self.forces.second.gate, self.stress.pressure, self.stress.pull]
        for layers in lasts:
            last = layers[-1]
            assert isinstance(last, nn.Linear)
            nn.init.normal_(last.weight, std=0.01)

    def forward(self, batch: AtomicBatch) -> Outputs:
        edges = Edges.of(batch, self.config)
        s = self.embedding(batch.atomic_numbers)  # [n_atoms, F]
        v = s.new_zeros(batch.n_atoms, 3, self.config.width)
        for message, update in zip(self.messages, self.updates):
            s, v = update(*message(s, v, edges))
        energy = sum_by_structure(self.energy(s).squeeze(-1), batch)
        if self.config.forces == "gradient":
            return Outputs(energy=energy)
        return Outputs(energy=energy, forces=self.forces(s, v), stress=self.stress(s, edges, batch))

    def recomputable(self) -> list[nn.Module]:
        """Modules that activation checkpointing may run a second time."""
        return [*self.messages, *self.updates]


def mlp(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    """Make an MLP of two linear layers with SiLU between them."""
    return nn.Sequential(nn.Linear(n_in, n_hidden), nn.SiLU(), nn.Linear(n_hidden, n_out))


@full_precision
def product(u: Tensor, v: Tensor) -> Tensor:
    """Compute scalar products ⟨u, v⟩ of vectors: [n_atoms, 3, F] twice -> [n_atoms, F]"""
    return (u * v).sum(dim=1)


def length(v: Tensor) -> Tensor:
    """Compute lengths |v|: [n_atoms, 3, F] -> [n_atoms, F]

    They are smoothed, so that they have a slope where v is zero, as it is for an atom without neighbours.
    """
    return (product(v, v) + 1e-8).sqrt()


def build(config: PainnConfig, info: DatasetInfo) -> nn.Module:
    return Painn(config)


def ladder(n_params: int) -> PainnConfig:
    """Size ladder: three layers; the width is the dial, and in small models the number of hidden channels, too.

    These MLPs act on atoms, filters on the many more edges: with more radial functions instead, a small model could
    cost more FLOPs than the next one.
    """
    return closest(
        n_params,
        lambda dial: PainnConfig(width=graded(dial)),
        build,
        fine=lambda config, hidden: PainnConfig(width=config.width, hidden=hidden),
    )


@hookimpl
def register_architectures() -> list[Architecture]:
    return [
        Architecture(
            name="painn",
            summary="Equivariant messages of scalars and vectors over periodic neighbours.",
            reference="arXiv:2102.03150",
            config=PainnConfig,
            build=build,
            ladder=ladder,
            dial="channels, 3 layers",
            claims=frozenset(CLAIMS),  # all there are; the core drops `conservative` where forces are direct
            forces="both",
            graph=lambda config: Graph.radius(config.cutoff),
            sizes={"paper": PainnConfig()},  # QM9 and MD17 in the paper
        )
    ]
