"""Baselines that use no neighbours: they predict zero, means, or a linear function of the composition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matscale.core.baselines.base import Baseline, MaskedSum, batches, single
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.references import fit_references
from matscale.core.model.outputs import Outputs

if TYPE_CHECKING:
    from matscale.core.data.store.packed import PackedDataset


@dataclass(frozen=True)
class ZeroBaseline(Baseline):
    """Baseline that predicts zero for everything. Its mean absolute errors are the mean sizes of the labels."""

    name: ClassVar[str] = "zero"
    summary: ClassVar[str] = "0 everywhere"

    @classmethod
    def fit(cls, dataset: PackedDataset, indices: NDArray[np.int64]) -> Self:
        return cls()

    def __call__(self, batch: AtomicBatch) -> Outputs:
        return Outputs(
            energy=batch.positions.new_zeros(batch.n_structures, dtype=torch.float64),
            forces=torch.zeros_like(batch.positions),
            stress=torch.zeros_like(batch.cell),
        )

    def plain(self) -> dict[str, Any]:
        return {}

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        return cls()


@dataclass(frozen=True)
class MeanBaseline(Baseline):
    """Baseline that predicts means: energy = (Σ E / Σ n_atoms) · n_atoms.

    Forces are the mean force vector; the stress is the mean tensor.
    """

    name: ClassVar[str] = "mean"
    summary: ClassVar[str] = "means of the training part"

    energy_per_atom: float
    """Mean energy [eV/atom]."""
    force: tuple[float, ...]
    """Mean force vector [3] eV/Å."""
    stress: tuple[float, ...]
    """Mean stress tensor [9] eV/Å³, row by row."""

    @classmethod
    def fit(cls, dataset: PackedDataset, indices: NDArray[np.int64]) -> Self:
        energy, atoms = 0.0, 0
        forces, stress = MaskedSum(1, 3), MaskedSum(1, 9)
        for batch in batches(dataset, indices):
            forces.add(single(batch.n_atoms), batch.forces)
            stress.add(single(batch.n_structures), None if batch.stress is None else batch.stress.reshape(-1, 9))
            if batch.energy is not None:
                has_energy = torch.isfinite(batch.energy)
                energy += float(batch.energy[has_energy].sum())
                atoms += int(batch.atoms_per_structure[has_energy].sum())
        return cls(energy / max(atoms, 1), tuple(forces.mean()[0].tolist()), tuple(stress.mean()[0].tolist()))

    def __call__(self, batch: AtomicBatch) -> Outputs:
        return Outputs(
            energy=self.energy_per_atom * batch.atoms_per_structure.double(),
            forces=batch.positions.new_tensor(self.force).expand(batch.n_atoms, 3),
            stress=_expand(self.stress, batch),
        )

    def plain(self) -> dict[str, Any]:
        return {"energy_per_atom": self.energy_per_atom, "force": list(self.force), "stress": list(self.stress)}

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        return cls(float(values["energy_per_atom"]), tuple(values["force"]), tuple(values["stress"]))


@dataclass(frozen=True)
class CompositionBaseline(Baseline):
    """Baseline with energy = Σ_atoms reference(Z), where the references are fitted by least squares.

    The fit is to energies per atom. The reference of an element that was not in training is 0 eV. Forces are 0, since
    the energy does not depend on positions. The stress would be 0, too, but its mean in datasets often differs from 0;
    therefore the mean tensor is predicted.
    """

    name: ClassVar[str] = "composition"
    summary: ClassVar[str] = "linear in the composition"

    references: tuple[float, ...]
    """Reference energies [119] eV/atom, by atomic number."""
    stress: tuple[float, ...]
    """Mean stress tensor [9] eV/Å³, row by row."""

    @classmethod
    def fit(cls, dataset: PackedDataset, indices: NDArray[np.int64]) -> Self:

        stress = MaskedSum(1, 9)
        for batch in batches(dataset, indices):
            stress.add(single(batch.n_structures), None if batch.stress is None else batch.stress.reshape(-1, 9))
        labelled = indices[dataset.has("energy")[indices]]
        values = fit_references(dataset, labelled).values if len(labelled) else np.zeros(119)
        return cls(tuple(float(v) for v in values), tuple(stress.mean()[0].tolist()))

    def __call__(self, batch: AtomicBatch) -> Outputs:
        references = torch.tensor(self.references, dtype=torch.float64, device=batch.positions.device)
        energy = references.new_zeros(batch.n_structures).index_add_(0, batch.batch, references[batch.atomic_numbers])
        return Outputs(energy=energy, forces=torch.zeros_like(batch.positions), stress=_expand(self.stress, batch))

    def plain(self) -> dict[str, Any]:
        from ase.data import chemical_symbols  # start-up: ase

        references = {chemical_symbols[z]: e for z, e in enumerate(self.references) if e != 0.0}
        return {"references": references, "stress": list(self.stress)}

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        from ase.data import atomic_numbers  # start-up: ase

        references = [0.0] * 119
        for symbol, energy in values["references"].items():
            references[atomic_numbers[symbol]] = float(energy)
        return cls(tuple(references), tuple(values["stress"]))


def _expand(stress: tuple[float, ...], batch: AtomicBatch) -> Tensor:
    return batch.cell.new_tensor(stress).reshape(1, 3, 3).expand(batch.n_structures, 3, 3)
