r"""EScAIP: attention among the neighbours of each atom, with features that do not depend on orientation.

    x⁰, y⁰      = Input(elements, orders, distances)                atoms x [n_atoms, H], slots y [n_atoms, W, H]
    x, y       <- x, y + Attention(norm x, norm y)                  n_layers times,
    x, y       <- x, y + FeedForwards(norm x, norm y)               each in turn
    E, F, σ     = heads on readouts of all stages                   or F and σ as derivatives of E (`forces`)

`layout` has the neighbours and their slots, `blocks` the attention, `heads` the outputs. The energy is invariant
under rotation and reflection for any weights, so that derived forces and stress are equivariant. The published direct
forces are not (`heads`): such a model must learn equivariance from rotated data.

Qu & Krishnapriyan, arXiv:2410.24169, in the form of fairchem v2: with the same weights, it gives the same numbers.
Differences in the computation: the readout of a block is computed once, maps of atoms once per atom, attention uses
Legendre polynomials, and ranks count all atoms, including those beyond the cutoff that fairchem's images do not reach.

Shapes: W slots of an atom's row, H channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from matscale.plugin import AtomicBatch, DatasetInfo, Graph, Outputs, check_data_elements, is_plain_wanted
from matscale.plugins.escaip.blocks import Block, InputBlock
from matscale.plugins.escaip.config import EScAIPConfig
from matscale.plugins.escaip.heads import EnergyHead, ForcesHead, Mlp, Readout, StressHead
from matscale.plugins.escaip.layout import Layout, MakeLayout


class EScAIP(nn.Module):
    """Model of the energy and, with direct forces, of forces and stress of a batch."""

    def __init__(self, config: EScAIPConfig) -> None:
        super().__init__()
        self.config = config
        self.make_layout = MakeLayout(config)
        self.input = InputBlock(config)
        # A gradient model does not use the slots after the last block.
        is_last = (not config.is_direct and k == config.n_layers - 1 for k in range(config.n_layers))
        self.blocks = nn.ModuleList(Block(config, atoms_only) for atoms_only in is_last)
        self.atom_readout = Readout(config)
        self.energy = EnergyHead(config)
        if config.is_direct:
            self.edge_readout = Readout(config)
            self.forces = ForcesHead(config)
            if config.predicts_stress:
                self.stress = StressHead(config)
        initialise(self)

    def forward(self, data: AtomicBatch) -> Outputs:
        layout = self._layout(data)
        atom_stages, edge_stages = self._stages(data, layout)
        z = self.atom_readout(atom_stages)
        energy = self.energy(z, data)
        if not self.config.is_direct:
            return Outputs(energy=energy)
        z_edge = self.edge_readout(edge_stages)
        forces = self.forces(z, z_edge, layout)
        stress = self.stress(z, z_edge, layout, data) if self.config.predicts_stress else None
        return Outputs(energy=energy, forces=forces, stress=stress)

    def embed(self, data: AtomicBatch) -> Tensor:
        """Features of atoms, [n_atoms, hidden]: the input of the energy head."""
        found: Tensor = self.atom_readout(self._stages(data, self._layout(data))[0])
        return found

    def _layout(self, data: AtomicBatch) -> Layout:
        """Make the layout of a batch.

        The rows have the full width only if shapes must follow from the number of atoms: for compilation, and to count
        FLOPs.
        """
        layout: Layout = self.make_layout(data, is_plain_wanted())
        return layout

    def _stages(self, data: AtomicBatch, layout: Layout) -> tuple[list[Tensor], list[Tensor]]:
        """Features of atoms and of edges, before the first and after each block."""
        x, y = self.input(data.atomic_numbers, layout)
        atom_stages, edge_stages = [x], [y]
        for block in self.blocks:
            x, y = block(x, y, data.atomic_numbers, layout)
            atom_stages.append(x)
            edge_stages.append(y)
        return atom_stages, edge_stages

    def recomputable(self) -> list[nn.Module]:
        """Modules that activation checkpointing may run again (`matscale.core.model.activation_checkpointing`)."""
        return list(self.blocks)


def initialise(model: nn.Module) -> None:
    """Initialise biases with zero, embeddings uniformly within ±0.001 and heads by Glorot, as published.

    The last layer of each head starts near zero.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.uniform_(module.weight, -1e-3, 1e-3)
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for head in model.modules():
        if isinstance(head, Mlp):
            for module in head.feed_forward:
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
            nn.init.normal_(head.out.weight, std=0.01)


def graph(config: EScAIPConfig) -> Graph:
    """Graph that connects an atom to all atoms that count in its ranks; the layout selects neighbours among them."""
    return Graph.radius(config.search_radius)


def build(config: EScAIPConfig, info: DatasetInfo) -> nn.Module:
    """Build the model. Raises ConfigError if the data hold an element without a row in the embeddings."""
    check_data_elements("escaip", info, config.max_atomic_number)
    return EScAIP(config)
