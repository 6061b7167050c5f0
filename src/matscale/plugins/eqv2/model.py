r"""EquiformerV2: equivariant graph attention between atoms, whose features are functions on the sphere.

    x⁰_i   = a(Z_i) Y_00 + Σ_{j -> i} R_e^T r(d_ij, Z_i, Z_j) / mean_degree          element, and degree of the graph
    x     <- x + Attention(norm x)                                                   n_layers times,
    x     <- x + FeedForward(norm x)                                                 each in turn
    E_s    = Σ_{i in s} FeedForward(norm x)_{l=0} / mean_atoms
    F_i    = Attention(norm x)_{l=1},      σ_s from l = 0 and l = 2                  or derivatives of E (`forces`)

R_e rotates the edge e onto the polar axis (`rotation`), where messages keep the orders |m| ≤ mmax (`attention`).
Activations act on a grid of the sphere; the error of the grid is the model's only error of equivariance.

Liao, Wood, Das & Smidt, arXiv:2306.12059; as trained on OMat24, arXiv:2410.12771. With the published models' options
and weights it gives their numbers. With `max_neighbors = 0`, all neighbours count, with a weight that vanishes at the
cutoff: energies are then smooth, and `forces = "gradient"` gives conservative forces and stress.

Shapes: C channels, K = (lmax+1)² coefficients per atom.
"""

from __future__ import annotations

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
from matscale.plugins.eqv2 import fast
from matscale.plugins.eqv2.attention import radial_network
from matscale.plugins.eqv2.blocks import Block
from matscale.plugins.eqv2.config import EqV2Config, idle_parameters
from matscale.plugins.eqv2.heads import EnergyHead, EquivariantStressHead, ForcesHead, Rank2StressHead


class EqV2(nn.Module):
    """Model of the energy and, with direct forces, of forces and stress of a batch."""

    def __init__(self, config: EqV2Config) -> None:
        super().__init__()
        self.config = config
        self.edge_frames = sphere.EdgeFrames(
            *(config.lmax, config.mmax, config.cutoff, config.n_radial),
            name="eqv2",
            envelope=config.is_smooth,
            passage=config.is_smooth,
        )
        self.edge_grid = sphere.SphereGrid(config.lmax, config.grid_resolution, config.mmax, config.grid)
        self.atom_grid = sphere.SphereGrid(config.lmax, config.grid_resolution, grid=config.grid)
        self.element = nn.Embedding(config.max_atomic_number + 1, config.channels)  # row 0 is no element
        radial = radial_network(config, (config.lmax + 1) * config.channels)
        self.edge_degree = sphere.EdgeDegree(config.lmax, radial, config.mean_degree)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = sphere.make_norm(config.norm, config.lmax, config.channels)
        initialise(self, config.weight_init)
        self.energy = EnergyHead(config)
        if config.forces == "direct":
            self.forces = ForcesHead(config)
            if config.stress_head != "none":
                self.stress = (Rank2StressHead if config.stress_head == "rank2" else EquivariantStressHead)(config)
        initialise(self, "biases")

    def forward(self, data: AtomicBatch) -> Outputs:
        check_batch_elements("eqv2", data.atomic_numbers, self.config.max_atomic_number)
        if fast.serves(self, data):
            return fast.forward(self, data)
        edges = self.edge_frames(data)
        return self.read_out(self._run(data, edges), edges, data)

    def embed(self, data: AtomicBatch) -> Tensor:
        """Features of atoms, [n_atoms, C]: the invariant part (l = 0) of the coefficients that the heads read."""
        check_batch_elements("eqv2", data.atomic_numbers, self.config.max_atomic_number)
        return self._run(data, self.edge_frames(data))[:, 0]

    def _run(self, data: AtomicBatch, edges: sphere.Edges) -> Tensor:
        """Normalised coefficients of atoms [n_atoms, K, C] after the last block."""
        x = self.embed_graph(data, edges)
        for block in self.blocks:
            x = block(x, edges, self.edge_grid, self.atom_grid, data.batch, data.n_structures)
        normalised: Tensor = self.norm(x)
        return normalised

    def embed_graph(self, data: AtomicBatch, edges: sphere.Edges) -> Tensor:
        """Initial coefficients of atoms [n_atoms, K, C], from elements and edges."""
        neighbors: Tensor = self.edge_degree(edges)
        return neighbors + self.embed_elements(data)

    def embed_elements(self, data: AtomicBatch) -> Tensor:
        """Contribution of elements to the initial coefficients [n_atoms, K, C]; only its scalars are not zero."""
        scalars = self.element(data.atomic_numbers)[:, None]
        return nn.functional.pad(scalars, (0, 0, 0, self.config.n_coefficients - 1))

    def read_out(self, x: Tensor, edges: sphere.Edges, data: AtomicBatch) -> Outputs:
        """Compute the outputs from the normalised coefficients of atoms, `x` [n_atoms, K, C]."""
        energy = self.energy(x, self.atom_grid, data)
        if self.config.forces == "gradient":
            return Outputs(energy=energy)
        forces = self.forces(x, edges, self.edge_grid)
        if self.config.stress_head == "none":
            return Outputs(energy=energy, forces=forces)
        stress = sphere.tensor_from_parts(*self.stress(x, edges, self.atom_grid, data))
        return Outputs(energy=energy, forces=forces, stress=stress)

    def recomputable(self) -> list[nn.Module]:
        """Modules that activation checkpointing may run again (`matscale.core.model.activation_checkpointing`)."""
        return list(self.blocks)

    def idle_parameters(self) -> frozenset[str]:
        """Names of parameters that no output depends on; see `matscale.plugins.eqv2.config`."""
        return idle_parameters(self.config)


def initialise(model: nn.Module, kind: str) -> None:
    """Initialise biases with zero and, if `kind` is "normal", the weights of linear maps outside radial networks.

    These weights are drawn from a normal distribution with a standard deviation of 1/√inputs. For any other kind, they
    keep torch's default, uniform within ±1/√inputs. The weights of the heads always keep it.
    """
    radial = {id(m) for net in model.modules() if isinstance(net, sphere.RadialNetwork) for m in net.modules()}
    for module in model.modules():
        if not isinstance(module, nn.Linear | sphere.SO3Linear):
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
        if kind == "normal" and id(module) not in radial:
            nn.init.normal_(module.weight, std=module.weight.shape[-1] ** -0.5)


def graph(config: EqV2Config) -> Graph:
    """Graph of the nearest neighbours by the published rule, or of all neighbours within the cutoff."""
    if config.is_smooth:
        return Graph.radius(config.cutoff)
    return Graph.nearest(config.cutoff, config.max_neighbors, strict=config.strict_neighbors)


def build(config: EqV2Config, info: DatasetInfo) -> nn.Module:
    """Build the model. Raises ConfigError if the data hold an element without a row in the embeddings."""
    check_data_elements("eqv2", info, config.max_atomic_number)
    return EqV2(config)
