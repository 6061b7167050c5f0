r"""SchNet: continuous-filter convolutions, here over all periodic images within a cutoff.

    h⁰_i     = a(Z_i)                                                                           [n_atoms, H]
    W_ij     = f_c(d_ij) · L2 σ(L1 g(d_ij))                                                     [n_edges, F]
    hⁿ⁺¹_i   = hⁿ_i + A σ(B Σ_{j -> i} W_ij ∘ C hⁿ_j)                                            [n_atoms, H]
    E_s      = Σ_{i in s} r2 σ(r1 h_i)                                                          [n_structures]

a is an embedding, g are Gaussians of the distance, f_c the cosine cutoff, σ the shifted softplus; A, B, r and L have
biases, C has none. f_c and its slope vanish at the cutoff, so energy and forces are continuous. Forces and stress are
the derivatives that the core takes.

Schütt et al., arXiv:1706.08566; the numbers are those of PyG's and fairchem's SchNet with the same weights. Fairchem's
OC20 models keep the 50 nearest neighbours of an atom (`max_neighbors`). Then the energy jumps when a neighbour is
dropped, and the order of atoms decides among neighbours at equal distance: such a configuration claims few symmetries.
By default, all neighbours within the cutoff count.

Shapes: n_edges directed edges j -> i, of n_bonds distances between n_pairs of atoms (`pairs`), R Gaussians, H hidden
channels, F filters.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from matscale.plugin import (
    ArchitectureConfig,
    AtomicBatch,
    BatchShape,
    DatasetInfo,
    GaussianBasis,
    Graph,
    Outputs,
    Positive,
    ShiftedSoftplus,
    check_data_elements,
    closest,
    cosine_cutoff,
    graded,
    sum_by_structure,
)
from matscale.plugins.schnet.pairs import Pairs


class SchNetConfig(ArchitectureConfig):
    """Configuration of SchNet."""

    hidden: Positive = 128
    """Channels H of an atom."""
    filters: Positive = 128
    """Channels F of a message."""
    n_layers: Positive = 3
    """Number of interaction blocks."""
    n_radial: Positive = 50
    """Number R of Gaussians that expand a distance."""
    cutoff: float = Field(default=6.0, gt=0)
    """Interaction radius [Å]."""
    max_neighbors: int | None = Field(default=None, ge=1)
    """Number of nearest neighbours of an atom that are kept; None: all within the cutoff."""
    max_atomic_number: Positive = 118
    """Highest atomic number that has a row in the embedding; 99 in the OC20 models."""


class Interaction(nn.Module):
    """Interaction block: the update of an atom's channels from its neighbours."""

    def __init__(self, config: SchNetConfig) -> None:
        super().__init__()
        hidden, filters = config.hidden, config.filters
        self.filter = nn.Sequential(nn.Linear(config.n_radial, filters), ShiftedSoftplus(), nn.Linear(filters, filters))
        self.source = nn.Linear(hidden, filters, bias=False)
        self.target = nn.Sequential(nn.Linear(filters, hidden), ShiftedSoftplus(), nn.Linear(hidden, hidden))

    def forward(self, h: Tensor, pairs: Pairs, basis: Tensor, envelope: Tensor, total: Tensor) -> Tensor:
        """Compute the update of `h` [n_atoms, H], of the same shape.

        `basis` [n_bonds, R] and `envelope` [n_bonds, 1] belong to distances, `total` [n_pairs, 1] has the sums of
        `envelope` over images.
        """
        first, activation, second = self.filter
        assert isinstance(second, nn.Linear)
        images = pairs.summed(activation(first(basis)) * envelope)  # [n_pairs, F]
        weight = functional.linear(images, second.weight) + second.bias * total
        change: Tensor = self.target(pairs.convolved(self.source(h), weight))
        return change


class SchNet(nn.Module):
    """Model of the energy of a batch from elements and distances."""

    def __init__(self, config: SchNetConfig) -> None:
        super().__init__()
        self.cutoff = config.cutoff
        self.embedding = nn.Embedding(config.max_atomic_number + 1, config.hidden)  # row 0 is no element
        self.basis = GaussianBasis(config.cutoff, config.n_radial)
        self.interactions = nn.ModuleList(Interaction(config) for _ in range(config.n_layers))
        half = max(1, config.hidden // 2)
        self.readout = nn.Sequential(nn.Linear(config.hidden, half), ShiftedSoftplus(), nn.Linear(half, 1))
        self._initialise()

    def _initialise(self) -> None:
        """Initialise matrices by Glorot, biases with zero, as in SchNet; the last layer starts near zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        last = self.readout[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=0.01)

    def forward(self, data: AtomicBatch) -> Outputs:
        return Outputs(energy=sum_by_structure(self.readout(self.embed(data)).squeeze(-1), data))

    def embed(self, data: AtomicBatch) -> Tensor:
        """Features of atoms, [n_atoms, H]: the input of the readout."""
        pairs = Pairs.of(data)
        basis = self.basis(pairs.distance)  # [n_bonds, R], shared by the interactions, like the envelope
        envelope = cosine_cutoff(pairs.distance, self.cutoff)[:, None]
        total = pairs.summed(envelope)  # [n_pairs, 1]
        h: Tensor = self.embedding(data.atomic_numbers)  # [n_atoms, H]
        for interaction in self.interactions:
            h = h + interaction(h, pairs, basis, envelope, total)
        return h

    def recomputable(self) -> list[nn.Module]:
        """Modules that activation checkpointing may run again (`matscale.core.model.activation_checkpointing`)."""
        return list(self.interactions)


def build(config: SchNetConfig, info: DatasetInfo) -> nn.Module:
    """Build the model. Raises ConfigError if the data hold an element without a row in the embedding."""
    check_data_elements("schnet", info, config.max_atomic_number)
    return SchNet(config)


def ladder(n_params: int) -> SchNetConfig:
    """Choose a model with about `n_params` parameters: three interactions, as many filters as hidden channels.

    In small models, the number of filters is adjusted.
    """
    return closest(
        n_params,
        lambda dial: SchNetConfig(hidden=graded(dial), filters=graded(dial)),
        build,
        fine=lambda config, filters: SchNetConfig(hidden=config.hidden, filters=filters),
    )


def step_flops(config: SchNetConfig, shape: BatchShape) -> float:
    """FLOPs of a training step with gradient forces and stress: matrix products, 2 FLOPs per multiply-add.

    A product of features that depend on positions counts six times: forward, its input gradient (for the forces), and
    in the second backward the input and weight gradients of both. Products of features of elements alone (`source` of
    the first interaction) count three times, since forces do not need them. The last row of the readout counts five
    times, since the input of its first backward is constant.
    """
    hidden, filters, half = config.hidden, config.filters, max(1, config.hidden // 2)
    per_edge = config.n_layers * (config.n_radial + filters) * filters
    per_atom = config.n_layers * (filters * hidden + hidden * hidden) + (config.n_layers - 1) * hidden * filters
    products = 6 * shape.n_edges * per_edge + shape.n_atoms * (
        6 * (per_atom + hidden * half) + 3 * hidden * filters + 5 * half
    )
    return 2.0 * products


def graph(config: SchNetConfig) -> Graph:
    """Graph of all neighbours within the cutoff, or of the nearest `max_neighbors` of them."""
    if config.max_neighbors is None:
        return Graph.radius(config.cutoff)
    return Graph.nearest(config.cutoff, config.max_neighbors)


def _oc20(n_layers: int) -> SchNetConfig:
    return SchNetConfig(
        hidden=1024, filters=256, n_layers=n_layers, n_radial=200, cutoff=6.0, max_neighbors=50, max_atomic_number=99
    )


SIZES = {
    "oc20-200k": _oc20(n_layers=3),
    "oc20-all": _oc20(n_layers=5),
    "ladder-01": SchNetConfig(hidden=64, filters=64, n_layers=3, n_radial=50, cutoff=5.0, max_atomic_number=99),
    "ladder-02": SchNetConfig(hidden=128, filters=128, n_layers=6, n_radial=50, cutoff=5.0, max_atomic_number=99),
    "ladder-03": SchNetConfig(hidden=256, filters=256, n_layers=8, n_radial=50, cutoff=5.0, max_atomic_number=99),
}
"""OC20: fairchem's configurations, 5,704,193 and 9,088,513 parameters. Ladder: the three shapes of
arXiv:2509.21811's code, whose models also had a stress head and no residual connections (h + ...), and hence other
numbers of parameters."""
