r"""MACE: the energy model of the package `mace-torch` as an architecture of matscale.

    h⁰_i   = a(Z_i)
    A_i    = W_Z (1/n̄) Σ_{j -> i} R(d_ij) · [Y(r̂_ij) ⊗ W hⁿ_j]             one-particle basis, orders l <= max_l
    B_i    = Σ_{ν = 1}^{correlation} U_ν(Z_i) A_i ⊗ ... ⊗ A_i                 ν factors, symmetric contraction
    hⁿ⁺¹_i = W' B_i + S(Z_i) hⁿ_i                                            orders l <= lmax are kept
    E_s    = Σ_{i in s} Σ_n readout_n(hⁿ_i)

R are networks on Bessel functions of the distance times a polynomial cutoff whose first and second derivatives vanish,
n̄ is the mean number of neighbours in the training data. All of this is the package's own code; forces and stress, which
the core derives, are its own to the last bit, energies but for the order of their sum, which is in float64 here.
References of elements and the scale of the energy are left to matscale: its atomic energies are 0, its scale is 1.

U, S and a are tables by element. In most models they hold most of the parameters, and a step changes only the rows of
the elements in its batch: with `element_tables`, matscale counts them separately, so that laws can leave them out.

The package asks for e3nn 0.4.4, which does not work under torch >= 2.6 unless the safe loading of files is turned off
for the whole process, as the import of `mace` does. With the e3nn of matscale its numbers are the same, and all
changes to the process that the import makes are undone (`isolation`). The import takes seconds, so it waits until a
first model is built.

Batatia et al., arXiv:2206.07697; the foundation models MACE-MP-0: arXiv:2401.00096.
"""

from __future__ import annotations

import re
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Literal

import numpy as np
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
    PluginError,
    closest,
    graded,
    hookimpl,
    isolation,
    refuse_half,
    sum_by_structure,
    times_matrix,
)

API_VERSION = (1, 0)
INSTALL = 'pip install --no-deps "mace-torch>=0.3.14,<0.4"'

try:
    MACE = version("mace-torch")  # without the seconds of its import
except PackageNotFoundError:
    raise PluginError(
        f"mace-torch is not installed. Its metadata ask for e3nn 0.4.4, with which matscale does not work: install it "
        f"without its dependencies (matscale-mace brings the others): {INSTALL}"
    ) from None

BLOCKS = {
    "residual": ("RealAgnosticResidualInteractionBlock", "RealAgnosticResidualInteractionBlock"),
    "agnostic": ("RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock"),
    "density": ("RealAgnosticDensityInteractionBlock", "RealAgnosticDensityResidualInteractionBlock"),
}
"""Classes of the package for the first interaction and for the others, by kind of interaction."""


Elements = Annotated[tuple[Annotated[int, Field(ge=1, le=118)], ...], Field(min_length=1)]
"""Atomic numbers."""


class MaceConfig(ArchitectureConfig):
    """Configuration of MACE; the defaults are those of MACE-MP-0 medium."""

    channels: int = Field(default=128, ge=1)
    """Channels of each order; the dial of the size ladder."""
    lmax: int = Field(default=1, ge=0, le=3)
    """Highest order l that an atom keeps from one interaction to the next."""
    max_l: int = Field(default=3, ge=1, le=6)
    """Highest order l of the spherical harmonics and of the one-particle basis."""
    correlation: int = Field(default=3, ge=1)
    """Largest number of factors ν in the symmetric contraction: a message has correlation + 1 bodies."""
    n_layers: int = Field(default=2, ge=1)
    """Number of interactions."""
    blocks: Literal["residual", "agnostic", "density"] = "residual"
    """Kind of interactions: for `agnostic`, the first mixes by element; for `density`, a density divides messages."""
    n_radial: int = Field(default=10, ge=1)
    """Number of Bessel functions of the distance."""
    radial_width: int = Field(default=64, ge=1)
    """Channels of the three hidden layers of the radial networks R."""
    readout_width: int = Field(default=16, ge=1)
    """Hidden channels of the last readout."""
    cutoff: float = Field(default=6.0, gt=0)
    """Interaction radius [Å]."""
    elements: Elements | None = None
    """Atomic numbers that have a row in the tables; default: all from 1 to 118."""

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


class Mace(nn.Module):
    """Model of the package mace-torch, which reads batches of matscale."""

    rows: Tensor

    def __init__(self, config: MaceConfig, info: DatasetInfo) -> None:
        super().__init__()
        self.n_elements = len(config.known)
        rows = torch.full((119,), -1)
        rows[list(config.known)] = torch.arange(self.n_elements)
        self.register_buffer("rows", rows, persistent=False)  # [119] of the tables, by atomic number
        self.model = package_model(config, info.mean_degree, torch.initial_seed())

    def forward(self, batch: AtomicBatch) -> Outputs:
        refuse_half("mace")
        assert batch.edge_index is not None
        assert batch.edge_shift is not None
        lattice = batch.cell.index_select(0, batch.batch.index_select(0, batch.edge_index[1]))  # [n_edges, 3, 3]
        shifts = batch.edge_shift.to(batch.cell.dtype)
        data = {
            "positions": batch.positions.clone(),  # it is marked as requiring a gradient
            "node_attrs": nn.functional.one_hot(self._types(batch), self.n_elements).to(batch.positions.dtype),
            "edge_index": batch.edge_index.flip(0),  # mace: vectors point from row 0 to row 1
            "shifts": times_matrix(shifts, lattice),
            "unit_shifts": shifts,
            "cell": batch.cell.flatten(0, 1),
            "batch": batch.batch,
            "ptr": nn.functional.pad(batch.atoms_per_structure.cumsum(0), (1, 0)),
        }
        energies = self.model(data, training=self.training, compute_force=False)["node_energy"]  # [n_atoms], float64
        return Outputs(energy=sum_by_structure(energies, batch))

    def _types(self, batch: AtomicBatch) -> Tensor:
        """Row of the tables for each atom, [n_atoms]. Raises DataError that names elements without a row."""
        types = self.rows[batch.atomic_numbers]
        if self.n_elements < 118 and bool((types < 0).any()):
            raise DataError(f"mace: {_unknown(batch.atomic_numbers[types < 0].unique().tolist())}")
        return types

    def element_tables(self) -> frozenset[str]:
        """Names of the parameters of which every row belongs to one element."""
        table = re.compile(r"\.(node_embedding\.linear|skip_tp)\.weight$|\.symmetric_contractions\.")
        return frozenset(name for name, _ in self.named_parameters() if table.search(name))


def package_model(config: MaceConfig, mean_degree: float, seed: int) -> nn.Module:
    """Build the package's `ScaleShiftMACE` from a configuration of matscale."""
    with isolation(), torch.device("cpu"):
        modules, o3 = _package()
        torch.manual_seed(seed)
        first, other = BLOCKS[config.blocks]
        model: nn.Module = modules.ScaleShiftMACE(
            r_max=config.cutoff,
            num_bessel=config.n_radial,
            num_polynomial_cutoff=5,
            max_ell=config.max_l,
            interaction_cls=modules.interaction_classes[other],
            interaction_cls_first=modules.interaction_classes[first],
            num_interactions=config.n_layers,
            num_elements=len(config.known),
            hidden_irreps=o3.Irreps([(config.channels, (order, (-1) ** order)) for order in range(config.lmax + 1)]),
            MLP_irreps=o3.Irreps([(config.readout_width, (0, 1))]),
            atomic_energies=np.zeros(len(config.known)),
            avg_num_neighbors=max(mean_degree, 1.0),
            atomic_numbers=list(config.known),
            correlation=config.correlation,
            gate=nn.functional.silu,
            radial_MLP=[config.radial_width] * 3,
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )
    return model


def _package() -> tuple[Any, Any]:
    """Import `mace.modules` and `e3nn.o3`. Raises PluginError if they cannot be imported together."""
    try:
        from e3nn import o3  # first: an e3nn that needs unsafe loading must fail here
        from mace import modules
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise PluginError(
            f"mace-torch {MACE} beside e3nn {version('e3nn')} cannot be imported ({reason}). "
            f"Install it without its dependencies, then e3nn for matscale: {INSTALL} && pip install 'e3nn>=0.6,<0.7'"
        ) from error
    return modules, o3


def _unknown(missing: list[int]) -> str:
    names = ", ".join(f"{chemical_symbols[z]} (Z = {z})" for z in missing)
    return (
        f"the tables have no row for {names}. Leave architecture.config.elements out, which gives a row to every "
        "element, or add them to it; or leave such structures out when packing."
    )


def build(config: MaceConfig, info: DatasetInfo) -> nn.Module:
    """Build the model. Raises ConfigError if the data hold an element without a row in the tables."""
    missing = sorted(set(info.elements) - set(config.known))
    if missing and info != DatasetInfo.any():
        raise ConfigError(f"mace: {_unknown(missing)}")
    return Mace(config, info)


def n_parameters(config: MaceConfig) -> int:
    """Number of parameters of a model of the ladder, where all but channels, widths and elements are the defaults."""
    n, k, width = len(config.known), config.channels, config.radial_width
    by_element = n * k * (1 + 28 + 58 + 28 + 2 * k)  # a; U for l = 0, 1 and, in the last contraction, 0; S twice
    radial = 2 * width * (config.n_radial + 2 * width) + width * (4 + 10) * k  # 4 and 10 products of orders
    return by_element + radial + 20 * k * k + k + (k + 1) * config.readout_width


def _sketch(config: MaceConfig, info: DatasetInfo) -> nn.Module:
    """Make a stand-in with the number of parameters of the model, which takes a second to build, for the ladder."""
    return nn.ParameterList([nn.Parameter(torch.empty(n_parameters(config)))])


def ladder(n_params: int) -> MaceConfig:
    """Size ladder: MACE-MP-0 medium at other widths; in small models the radial networks take up the remainder."""
    found: MaceConfig = closest(
        n_params,
        lambda dial: MaceConfig(channels=graded(dial)),
        _sketch,
        fine=lambda config, radial_width: config.model_copy(update={"radial_width": radial_width}),
    )
    return found


MPTRJ = tuple(z for z in range(1, 95) if not 84 <= z <= 88)
"""The 89 elements of MPtrj and OMat24: hydrogen to plutonium, without polonium to radium."""

SIZES = {
    "mp-0-small": MaceConfig(lmax=0, elements=MPTRJ),
    "mp-0-medium": MaceConfig(elements=MPTRJ),
    "mp-0-large": MaceConfig(lmax=2, elements=MPTRJ),
    "mpa-0": MaceConfig(blocks="density", elements=MPTRJ),
}
"""The foundation models MACE-MP-0 with 3,847,696, 4,688,656 and 5,725,072 parameters, and MACE-MPA-0 with 9,063,204."""


@hookimpl
def register_architectures() -> list[Architecture]:
    return [
        Architecture(
            name="mace",
            summary="Symmetric contractions of equivariant messages, many-body in one step: the model of mace-torch.",
            reference="arXiv:2206.07697",
            config=MaceConfig,
            build=build,
            ladder=ladder,
            dial="channels of MACE-MP-0 medium (2 layers, lmax 1, correlation 3)",
            claims=frozenset(CLAIMS),
            forces="gradient",
            graph=lambda config: Graph.radius(config.cutoff),
            sizes=SIZES,
        )
    ]
