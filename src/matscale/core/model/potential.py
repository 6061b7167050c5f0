"""`Potential`: a model with the element references and scales that convert its outputs to physical units.

A model works with numbers of order one. The potential adds the element reference energies, multiplies by the scales
that were measured on the training set, and derives forces and stress if the model does not predict them:

    energy = energy_scale · model energy + Σ_atoms reference(Z)                       [eV]
    forces = forces_scale · model forces          or  −d energy / d positions         [eV/Å]
    stress = stress_scale · model stress          or  (1/V) d energy / d strain       [eV/Å³]

The trainer trains it, a checkpoint stores it, `matscale.load` returns it and the ASE calculator uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.isolated import check_batch
from matscale.core.errors import DataError
from matscale.core.model.architecture import Architecture, ArchitectureConfig, DatasetInfo
from matscale.core.model.outputs import Outputs, model_outputs, where_defined, without_net_force


@dataclass(frozen=True)
class Scales:
    """Scales that convert a model's outputs to physical units. Models with derived forces use only the energy scale."""

    energy: float = 1.0
    """eV"""
    forces: float = 1.0
    """eV/Å"""
    stress: float = 1.0
    """eV/Å³"""


class Potential(nn.Module):
    """Model that maps an AtomicBatch to Outputs in physical units, forces and stress included."""

    references: Tensor
    scales: Tensor
    known: Tensor
    zero_net_force: bool = False
    """Whether the mean force of each structure is subtracted; direct forces do not sum to zero otherwise."""

    def __init__(
        self,
        model: nn.Module,
        *,
        derive: bool,
        elements: tuple[int, ...],
        references: Tensor | None = None,
        scales: Scales | None = None,
        graph: Graph | None = None,
        isolated: bool = False,
    ) -> None:
        """Set up the potential of `model`.

        `derive`: whether forces and stress are derived from the energy. `elements`: atomic numbers in the training
        data. `references` [119]: eV per atom, by atomic number; 0 for elements without one. `graph`: neighbour rule for
        batches; default: no edges. `isolated`: whether training included structures without edges.
        """
        super().__init__()
        self.model = model
        self.derive = derive
        self.graph = graph or Graph.none()
        self.isolated = isolated
        self.elements = elements
        scales = scales or Scales()
        references = torch.zeros(119) if references is None else references
        self.register_buffer("references", references.double())
        self.register_buffer("scales", torch.tensor([scales.energy, scales.forces, scales.stress], dtype=torch.float64))
        known = torch.zeros(119, dtype=torch.bool)
        known[list(elements)] = True
        self.register_buffer("known", known, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert the model. References and scales move with it but stay float64."""
        exact = self.references, self.scales
        super()._apply(fn, recurse)
        self.references, self.scales = (x.to(y.device) for x, y in zip(exact, (self.references, self.scales)))
        return self

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        config: ArchitectureConfig,
        info: DatasetInfo,
        seed: int,
        references: Tensor | None = None,
        scales: Scales | None = None,
        isolated: bool = False,
    ) -> Potential:
        """Build an architecture's model and wrap it in a potential."""
        return cls(
            architecture.model(config, info, seed),
            derive=architecture.derives_forces(config),
            elements=info.elements,
            references=references,
            scales=scales,
            graph=architecture.graph(config),
            isolated=isolated,
        )

    @classmethod
    def around(cls, other: Potential) -> Self:
        """Make a potential of this class with the model, references and scales of another."""
        potential = cls(
            other.model,
            derive=other.derive,
            elements=other.elements,
            references=other.references,
            scales=Scales(*other.scales.tolist()),
            graph=other.graph,
            isolated=other.isolated,
        )
        potential.zero_net_force = other.zero_net_force
        return potential

    def check_neighbors(self, batch: AtomicBatch, name: str = "") -> None:
        """Raises DataError for a structure in which no atom has a neighbour, unless training had such structures.

        The error names the structure by `name` or, without one, by its row in the dataset.
        """
        if not self.isolated:
            check_batch(batch, self.graph, name)

    def check_elements(self, batch: AtomicBatch) -> None:
        """Raises DataError for elements that were not in the training data, with their names."""
        unseen = batch.atomic_numbers[~self.known[batch.atomic_numbers]].unique().tolist()
        if unseen:
            from ase.data import chemical_symbols  # start-up: ase

            names = ", ".join(f"{chemical_symbols[z]} (Z = {z})" for z in unseen)
            raise DataError(
                f"The model was not trained on {names}; its predictions for structures with these elements would be "
                f"meaningless. It knows: {', '.join(chemical_symbols[z] for z in self.elements)}."
            )

    def forward(self, batch: AtomicBatch) -> Outputs:
        """Predict a batch.

        In training mode the outputs of a gradient model keep their autograd graph (double backward), in evaluation mode
        they do not. The stress of structures without a volume is NaN for every architecture. Raises OutputsError for
        outputs of a wrong type, shape, dtype or device.
        """
        double_backward = self.training and torch.is_grad_enabled()
        raw = model_outputs(self.model, batch, derive=self.derive, create_graph=double_backward)
        kind = batch.positions.dtype  # direct predictions have half precision in an autocast region
        energy_scale, forces_scale, stress_scale = self.scales.to(kind)
        if self.derive:
            forces_scale = stress_scale = energy_scale
        reference = torch.zeros(batch.n_structures, dtype=torch.float64, device=batch.positions.device)
        reference.index_add_(0, batch.batch, self.references[batch.atomic_numbers])
        forces = None if raw.forces is None else raw.forces.to(kind) * forces_scale
        if forces is not None and self.zero_net_force:
            forces = without_net_force(forces, batch)
        return replace(
            raw,
            energy=raw.energy.double() * self.scales[0] + reference,
            forces=forces,
            stress=None if raw.stress is None else where_defined(raw.stress.to(kind) * stress_scale, batch),
        )
