"""Outputs of a model, and forces and stress as derivatives of the energy.

Derivatives use a strain (Knuth et al., Comput. Phys. Commun. 190, 33 (2015)): deform positions and cell by (1 + ε),
then stress = (1/V) dE/dε and forces = −dE/dr, both at ε = 0, in one backward pass. The core does this for all models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from matscale.core.data.batch import AtomicBatch
from matscale.core.errors import OutputsError
from matscale.core.precision import outside_autocast, times_matrix


@dataclass(frozen=True)
class Outputs:
    """Predictions for a batch."""

    energy: Tensor
    """Total energies [n_structures]."""
    forces: Tensor | None = None
    """[n_atoms, 3]; None if they are derived from the energy."""
    stress: Tensor | None = None
    """[n_structures, 3, 3], symmetric, +(1/V) dE/dε; None if it is derived, or not predicted."""
    extras: dict[str, Tensor] = field(default_factory=dict)
    """Further values of a model by name, such as attention weights."""

    def detach(self) -> Outputs:
        """Same values without their autograd history."""
        return Outputs(
            energy=self.energy.detach(),
            forces=None if self.forces is None else self.forces.detach(),
            stress=None if self.stress is None else self.stress.detach(),
            extras={name: value.detach() for name, value in self.extras.items()},
        )


def checked(outputs: object, model: nn.Module, batch: AtomicBatch, *, derive: bool) -> Outputs:
    """Return `outputs` of a model for a batch, if types, shapes, dtypes and devices are right. Values do not matter.

    Raises OutputsError that names the model and the wrong field. No value is read, so a check of every batch costs no
    wait for a GPU, and finds a shape that is right in the first batch by chance.
    """
    if torch.compiler.is_compiling():
        assert isinstance(outputs, Outputs)
        return outputs
    origin = f"{type(model).__module__}.{type(model).__qualname__}"
    if not isinstance(outputs, Outputs):
        raise OutputsError(
            f"{origin}: forward must return matscale.plugin.Outputs, got {type(outputs).__name__}. "
            "Return Outputs(energy=...)."
        )
    n_structures, n_atoms, device = batch.n_structures, batch.n_atoms, batch.positions.device
    shapes = {
        "energy": ("[n_structures]", (n_structures,)),
        "forces": ("[n_atoms, 3]", (n_atoms, 3)),
        "stress": ("[n_structures, 3, 3]", (n_structures, 3, 3)),
    }
    for name, (words, shape) in shapes.items():
        value = getattr(outputs, name)
        wanted = f"{origin}: {name} must be {words} = {shape}"
        if value is None:
            if name == "energy" or (name == "forces" and not derive):
                raise OutputsError(f"{wanted}, got None. {_ADVICE[name]}")
            continue
        if not isinstance(value, Tensor):
            raise OutputsError(f"{wanted}, got {type(value).__name__}. Give a tensor.")
        if value.shape != shape:
            per_atom = name == "energy" and value.shape in ((n_atoms,), (n_atoms, 1))
            advice = (
                _SUM
                if per_atom
                else "Dimensions of size 1 are not dropped."
                if value.numel() == math.prod(shape)
                else ""
            )
            raise OutputsError(f"{wanted}, got {tuple(value.shape)}. {advice}".rstrip())
        if not value.dtype.is_floating_point:
            raise OutputsError(
                f"{origin}: {name} must have a floating-point dtype, as positions have ({batch.positions.dtype}), "
                f"got {value.dtype}. Make its zeros with positions.new_zeros(...)."
            )
        if value.device != device:
            raise OutputsError(
                f"{origin}: {name} must be on the device of the batch ({device}), got {value.device}. Make new tensors "
                "with positions.new_zeros(...), and keep constants in buffers (register_buffer), which move with the "
                "model."
            )
    return outputs


_SUM = (
    "It has one value per atom: return the sum over each structure, "
    "energy.new_zeros(batch.n_structures).index_add(0, batch.batch, energy)."
)
_ADVICE = {
    "energy": "Every model predicts the energy.",
    "forces": 'Return forces, or register the architecture with forces="gradient" to have them derived.',
}


def strained(batch: AtomicBatch, strain: Tensor) -> AtomicBatch:
    """Deform positions and cell by a small strain, differentiably.

    `strain` [n_structures, 3, 3] is dimensionless; only its symmetric part acts. Raises ValueError, with both shapes,
    if `strain` has another shape.
    """
    if strain.shape != batch.cell.shape:
        raise ValueError(f"strain has shape {tuple(strain.shape)}, the batch needs {tuple(batch.cell.shape)}.")
    symmetric = 0.5 * (strain + strain.transpose(1, 2))
    positions = batch.positions + times_matrix(batch.positions, symmetric.index_select(0, batch.batch))
    return batch.with_geometry(positions, batch.cell + times_matrix(batch.cell, symmetric[:, None]))


def where_defined(stress: Tensor, batch: AtomicBatch) -> Tensor:
    """Set `stress` [n_structures, 3, 3] to NaN for structures without a volume, whose stress is undefined."""
    return torch.where(batch.has_volume()[:, None, None], stress, torch.nan)


def without_net_force(forces: Tensor, batch: AtomicBatch) -> Tensor:
    """Subtract the mean of `forces` [n_atoms, 3] over each structure, so that the net force is zero.

    >>> import matscale
    >>> from ase import Atoms
    >>> pair = matscale.batch(Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]]))
    >>> without_net_force(torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 1.0]]), pair).tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]
    """
    total = forces.new_zeros(batch.n_structures, 3).index_add(0, batch.batch, forces)
    return forces - (total / batch.atoms_per_structure[:, None])[batch.batch]


def model_outputs(model: nn.Module, batch: AtomicBatch, *, derive: bool = True, create_graph: bool = False) -> Outputs:
    """Predict energy, forces and stress of a batch; outputs that the model lacks are derived if `derive` is True.

    `derive=False` (for direct forces) only calls the model. `create_graph=True` keeps the graph for training on forces
    (double backward); otherwise the result is detached. The derived stress of structures without a cell volume is NaN.
    Raises OutputsError for a wrong type, shape, dtype or device.
    """
    if not derive:
        return checked(model(batch), model, batch, derive=False)
    with torch.enable_grad():
        positions = batch.positions.detach().requires_grad_()
        strain = torch.zeros_like(batch.cell, requires_grad=True)
        deformed = strained(batch.with_geometry(positions, batch.cell), strain)
        outputs = checked(model(deformed), model, batch, derive=True)
        if outputs.forces is not None and outputs.stress is not None:
            return outputs if create_graph else outputs.detach()
        if outputs.energy.requires_grad:
            with outside_autocast():  # a derivative has the precision of the forward operations
                dE_dr, dE_dstrain = torch.autograd.grad(
                    outputs.energy.sum(), (positions, strain), create_graph=create_graph, materialize_grads=True
                )
        else:  # the energy does not depend on the geometry
            dE_dr, dE_dstrain = torch.zeros_like(positions), torch.zeros_like(strain)
    volume = batch.volume()[:, None, None]
    stress = where_defined(dE_dstrain / torch.where(volume > 0, volume, 1.0), batch)
    completed = replace(
        outputs,
        forces=-dE_dr if outputs.forces is None else outputs.forces,
        stress=stress if outputs.stress is None else outputs.stress,
    )
    return completed if create_graph else completed.detach()
