"""Residuals of energy, forces and the two parts of the stress, for the items that have the label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.structure import VOIGT
from matscale.core.model.outputs import Outputs
from matscale.core.runs.config import LABEL_OF


@dataclass(frozen=True)
class Residuals:
    """Prediction minus label (energy per atom), by term: [n, k] for n labelled items with k components each."""

    energy: Tensor | None
    forces: Tensor | None
    stress_isotropic: Tensor | None
    stress_anisotropic: Tensor | None

    def __getitem__(self, term: str) -> Tensor | None:
        found: Tensor | None = getattr(self, term)
        return found


@dataclass(frozen=True)
class Masks:
    """Masks of labelled items: structures with energy, atoms with forces, structures with stress.

    A mask is None if the batch has no such label.
    """

    energy: Tensor | None
    forces: Tensor | None
    stress: Tensor | None

    @classmethod
    def of(cls, batch: AtomicBatch) -> Masks:
        """Make masks from the labels, which are NaN if missing. A stress counts only in a cell with a volume."""
        stress = _complete(batch.stress)
        if stress is not None:
            stress = stress & batch.has_volume()
        return cls(_complete(batch.energy), _complete(batch.forces), stress)

    def count(self, term: str) -> int:
        """Count the items that have the label of `term`."""
        mask = getattr(self, LABEL_OF[term])
        return 0 if mask is None else int(mask.sum())


def _complete(label: Tensor | None) -> Tensor | None:
    return None if label is None else ~torch.isnan(label.reshape(len(label), -1)).any(dim=1)


def residuals(outputs: Outputs, batch: AtomicBatch) -> Residuals:
    """Prediction − label per term, for labelled items only: missing labels influence neither values nor gradients."""
    masks = Masks.of(batch)
    energy = forces = isotropic = anisotropic = None
    if masks.energy is not None and batch.energy is not None:
        per_atom = (outputs.energy.double() - batch.energy.double()) / batch.atoms_per_structure.double()
        energy = per_atom[masks.energy][:, None]
    if masks.forces is not None and batch.forces is not None and outputs.forces is not None:
        forces = (outputs.forces - batch.forces)[masks.forces]
    if masks.stress is not None and batch.stress is not None and outputs.stress is not None:
        isotropic, anisotropic = decompose((outputs.stress - batch.stress)[masks.stress])
    return Residuals(energy, forces, isotropic, anisotropic)


def decompose(stress: Tensor) -> tuple[Tensor, Tensor]:
    """Split [n, 3, 3] into isotropic and anisotropic parts, [n, 6] each, in Voigt order xx yy zz yz xz xy.

    >>> isotropic, anisotropic = decompose(torch.diag(torch.tensor([1.0, 2.0, 3.0]))[None])
    >>> isotropic.tolist(), anisotropic.tolist()
    ([[2.0, 2.0, 2.0, 0.0, 0.0, 0.0]], [[-1.0, 0.0, 1.0, 0.0, 0.0, 0.0]])
    """
    voigt = torch.stack([0.5 * (stress[:, a, b] + stress[:, b, a]) for a, b in VOIGT], dim=1)
    pressure = voigt[:, :3].mean(dim=1, keepdim=True)
    isotropic = torch.cat([pressure.expand(-1, 3), torch.zeros_like(voigt[:, 3:])], dim=1)
    return isotropic, voigt - isotropic
