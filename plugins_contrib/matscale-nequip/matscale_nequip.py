r"""NequIP: the energy model of the package `nequip` as an architecture of matscale.

    h⁰_i   = a(Z_i)
    m_i    = (n̄)^(−1/2) Σ_{j -> i} R(d_ij) · [Y(r̂_ij) ⊗ W1 hⁿ_j]           Clebsch-Gordan products, orders l <= lmax
    hⁿ⁺¹_i = gate(W2 m_i + hⁿ_i ⊗ a(Z_i))                                   the last term from the second layer on
    E_s    = Σ_{i in s} w · h_i

R are networks on Bessel functions of the distance times a polynomial cutoff whose first and second derivatives vanish,
n̄ is the mean number of neighbours in the training data. All of this is the package's own code; energies, and with the
core's derivatives forces and stress, are its own to the last bit. As there, vectors between atoms and the basis are
computed in float64 whatever the type of the weights. References of elements and the scale of the energy are left to
matscale: the package's shifts and scales are 0 and 1.

Importing the package takes ten seconds and changes the process: it is done when a first model is built, inside
`isolation`. Its `set_global_state()`, which sets torch's default type and all seeds of the process, is not called.

Batzner et al., arXiv:2101.03164; presets S to XL: arXiv:2607.28461.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import product
from typing import Annotated, Self

import e3nn
import torch
from ase.data import chemical_symbols
from pydantic import Field, field_validator
from torch import Tensor, nn

from matscale.plugin import (
    CLAIMS,
    Architecture,
    ArchitectureConfig,
    AtomicBatch,
    ConfigError,
    DataError,
    DatasetInfo,
    Graph,
    Outputs,
    closest,
    graded,
    hookimpl,
    isolation,
    refuse_half,
)

API_VERSION = (1, 0)
NEQUIP = version("nequip")  # fails where the package is not installed, without the ten seconds of its import


Elements = Annotated[tuple[Annotated[int, Field(ge=1, le=118)], ...], Field(min_length=1)]
"""Atomic numbers."""


class NequipConfig(ArchitectureConfig):
    """Configuration of NequIP; the defaults are those of its preset M."""

    features: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(128, 64, 32), min_length=1)
    """Channels of each order l = 0, 1, ..., lmax; the dial of the size ladder."""
    n_layers: int = Field(default=4, ge=1)
    """Number of interaction blocks."""
    parity: bool = False
    """Whether there are also features whose parity differs from that of the spherical harmonics of their order."""
    embedding: int = Field(default=32, ge=1)
    """Channels of the element embedding."""
    n_radial: int = Field(default=8, ge=1)
    """Number of Bessel functions of the distance."""
    radial_width: int = Field(default=128, ge=1)
    """Channels of the hidden layers of the radial networks R."""
    radial_depth: int = Field(default=1, ge=1)
    """Number of hidden layers of the radial networks R."""
    cutoff: float = Field(default=6.0, gt=0)
    """Interaction radius [Å]."""
    elements: Elements | None = None
    """Atomic numbers that have a row in the embedding; default: all from 1 to 118."""

    @field_validator("elements")
    @classmethod
    def _each_once(cls, elements: Elements | None) -> Elements | None:
        twice = sorted(z for z, n in Counter(elements or ()).items() if n > 1)
        if twice:
            raise ValueError(f"{', '.join(chemical_symbols[z] for z in twice)} is there twice: name each element once")
        return elements

    @property
    def known(self) -> tuple[int, ...]:
        return tuple(range(1, 119)) if self.elements is None else self.elements


class Nequip(nn.Module):
    """Model of the package nequip, which reads batches of matscale."""

    rows: Tensor

    def __init__(self, config: NequipConfig, info: DatasetInfo) -> None:
        super().__init__()
        self.known = config.known
        rows = torch.full((119,), -1)
        rows[list(self.known)] = torch.arange(len(self.known))
        self.register_buffer("rows", rows, persistent=False)  # [119] of the embedding, by atomic number
        self.model = package_model(config, info.mean_degree, torch.initial_seed(), torch.get_default_dtype())

    def forward(self, batch: AtomicBatch) -> Outputs:
        refuse_half("nequip")
        assert batch.edge_index is not None
        assert batch.edge_shift is not None
        data = {
            "pos": batch.positions.double(),
            "cell": batch.cell.double(),
            "atom_types": self._types(batch),
            "batch": batch.batch,
            "num_atoms": batch.atoms_per_structure,
            "edge_index": batch.edge_index.flip(0),  # nequip: row 0 is the centre
            "edge_cell_shift": batch.edge_shift.double(),
        }
        return Outputs(energy=self.model(data)["total_energy"].squeeze(-1))

    def _types(self, batch: AtomicBatch) -> Tensor:
        """Row of the embedding for each atom, [n_atoms]. Raises DataError that names elements without a row."""
        types = self.rows[batch.atomic_numbers]
        if len(self.known) < 118 and bool((types < 0).any()):
            raise DataError(f"nequip: {_unknown(batch.atomic_numbers[types < 0].unique().tolist())}")
        return types

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Apply `fn` to the weights; if it changes their type, change also the type that modules of nequip store."""
        super()._apply(fn, recurse)
        dtype = next(self.model.parameters()).dtype
        for module in self.model.modules():
            for name in {"_output_dtype", "model_dtype"} & vars(module).keys():
                setattr(module, name, dtype)
        return self


def package_model(config: NequipConfig, mean_degree: float, seed: int, dtype: torch.dtype) -> nn.Module:
    """Build the package's `NequIPGNNModel`, without derivatives, from a configuration of matscale."""
    with isolation(), torch.device("cpu"), _as_if_set_up():
        from nequip.model import NequIPGNNModel

        model: nn.Module = NequIPGNNModel(
            seed=seed,
            model_dtype=str(dtype).removeprefix("torch."),
            type_names=[chemical_symbols[z] for z in config.known],
            r_max=config.cutoff,
            num_layers=config.n_layers,
            l_max=len(config.features) - 1,
            parity=config.parity,
            num_features=list(config.features),
            type_embed_num_features=config.embedding,
            radial_mlp_depth=config.radial_depth,
            radial_mlp_width=config.radial_width,
            num_bessels=config.n_radial,
            avg_num_neighbors=max(mean_degree, 1.0),
            per_type_energy_scales=1.0,
            per_type_energy_shifts=0.0,
            do_derivatives=False,
        )
    return model


@contextmanager
def _as_if_set_up() -> Iterator[None]:
    """Context in which the package takes its `set_global_state()` as called; models do not need what it sets."""
    e3nn_defaults = e3nn.get_optimization_defaults()
    from nequip.utils import global_state

    before, global_state._GLOBAL_STATE_INITIALIZED = global_state._GLOBAL_STATE_INITIALIZED, True
    try:
        yield
    finally:
        global_state._GLOBAL_STATE_INITIALIZED = before
        e3nn.set_optimization_defaults(**e3nn_defaults)  # the package's builders leave e3nn scripting


def _unknown(missing: list[int]) -> str:
    names = ", ".join(f"{chemical_symbols[z]} (Z = {z})" for z in missing)
    return (
        f"the embedding has no row for {names}. Leave architecture.config.elements out, which gives a row to every "
        "element, or add them to it; or leave such structures out when packing."
    )


def build(config: NequipConfig, info: DatasetInfo) -> nn.Module:
    """Build the model. Raises ConfigError if the data hold an element without a row in the embedding."""
    missing = sorted(set(info.elements) - set(config.known))
    if missing and info != DatasetInfo.any():
        raise ConfigError(f"nequip: {_unknown(missing)}")
    return Nequip(config, info)


def n_parameters(config: NequipConfig) -> int:
    """Number of parameters of a model without odd features (`parity = false`) and with at least two layers."""
    middle = dict(enumerate(config.features))  # order -> channels
    wide = middle | {0: sum(config.features)}  # gates are scalars too
    first, last = {0: config.embedding}, {0: config.features[0]}
    blocks = [(first, wide), *[(middle, wide)] * (config.n_layers - 2), (middle, last)]
    return (
        len(config.known) * config.embedding
        + sum(_n_block(config, inputs, outputs) for inputs, outputs in blocks)
        + sum(config.embedding * m[a] * o[a] for m, o in blocks[1:] for a in o)  # h ⊗ a(Z)
        + config.features[0]
    )


def _n_block(config: NequipConfig, inputs: dict[int, int], outputs: dict[int, int]) -> int:
    """Number of parameters of W1, R and W2; `inputs` and `outputs` are channels by order."""
    triples = product(inputs, range(len(config.features)), outputs)  # orders of features, harmonics, their product
    paths = [(a, c) for a, b, c in triples if abs(a - b) <= c <= a + b and (a + b + c) % 2 == 0]
    n_weights = sum(inputs[a] for a, _ in paths)
    radial = config.radial_width * (config.n_radial + (config.radial_depth - 1) * config.radial_width + n_weights)
    return sum(m * m for m in inputs.values()) + radial + sum(inputs[a] * outputs[c] for a, c in paths)


def _sketch(config: NequipConfig, info: DatasetInfo) -> nn.Module:
    """Make a stand-in with the number of parameters of the model, which takes seconds to build, for the size ladder."""
    return nn.ParameterList([nn.Parameter(torch.empty(n_parameters(config)))])


def _rung(width: int) -> NequipConfig:
    return NequipConfig(
        features=(width, (width + 1) // 2, (width + 3) // 4),
        embedding=min(width, 32),
        radial_width=min(4 * width, 128),
    )


def ladder(n_params: int) -> NequipConfig:
    """Size ladder: preset M at other widths; the width of the radial networks takes up the remainder."""
    found: NequipConfig = closest(
        n_params,
        lambda dial: _rung(graded(dial)),
        _sketch,
        fine=lambda config, radial_width: config.model_copy(update={"radial_width": radial_width}),
    )
    return found


OMAT24 = tuple(z for z in range(1, 95) if not 84 <= z <= 88)
"""The 89 elements of OMat24 and MPtrj: hydrogen to plutonium, without polonium to radium."""

SIZES = {
    "default": NequipConfig(features=(32, 32), parity=True, cutoff=5.0, elements=OMAT24),
    "S": NequipConfig(features=(128, 64), n_layers=2, elements=OMAT24),
    "M": NequipConfig(elements=OMAT24),
    "L": NequipConfig(features=(128, 64, 32, 32), n_layers=6, elements=OMAT24),
    "XL": NequipConfig(features=(320, 96, 64, 32, 32), n_layers=6, elements=OMAT24),
}
"""`default`: the package's defaults, 441,152 parameters. S, M, L, XL: its presets, those of the foundation potentials,
with 616,352, 3,189,664, 6,836,128 and 32,136,288."""


@hookimpl
def register_architectures() -> list[Architecture]:
    return [
        Architecture(
            name="nequip",
            summary="E(3)-equivariant tensor products over periodic neighbours: the model of the package nequip.",
            reference="arXiv:2101.03164",
            config=NequipConfig,
            build=build,
            ladder=ladder,
            dial="channels of preset M (4 layers, orders 0 to 2 in proportions 4:2:1)",
            claims=frozenset(CLAIMS),
            forces="gradient",
            graph=lambda config: Graph.radius(config.cutoff),
            sizes=SIZES,
        )
    ]
