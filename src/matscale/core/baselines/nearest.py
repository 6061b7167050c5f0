"""Baseline by nearest neighbour (k = 1): a table with means for each pair of elements.

The pair is that of an atom and its nearest neighbour. This is the n-gram back-off ("Markov") model of the research
code, with two corrections: distances are periodic, and means do not include padding. In training, every atom adds its
force, and E/n_atoms and stress/n_atoms of its structure, to the means of two keys: (own element, nearest element) and
(own element). In a prediction, each atom contributes the mean of its first key. If the first key was not in training,
the mean of the second key is taken, and 0 if the second was not in training either. Energy and stress are sums over the
atoms of a structure.

The nearest neighbour may be a periodic image of the atom itself. If several neighbours are within TIE of the nearest
distance, the one with the lowest atomic number counts, so that the order of atoms does not matter. A single atom
without periodic axes has no neighbour, and therefore only the second key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matscale.core.baselines.base import Baseline, MaskedSum, batches
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.errors import DataError
from matscale.core.model.outputs import Outputs

if TYPE_CHECKING:
    from matscale.core.data.store.packed import PackedDataset

TIE = 1e-4
"""Difference in Å below which distances count as equal: far above float32 rounding, far below atomic motion."""
FIRST_CUTOFF = 3.5
"""Radius of the first search [Å].

It is doubled until every atom has a neighbour, but not beyond twice the distance that `_reach` gives.
"""
N_Z = 119
"""Number of atomic numbers, 0 to 118. In a pair, 0 stands for "no neighbour"."""


@dataclass(frozen=True, eq=False)
class NearestBaseline(Baseline):
    """Baseline by nearest neighbour: tables of means for pairs (element, nearest element).

    Pair (a, b) of atomic numbers has index 119 a + b; b = 0 stands for the key (element) alone.
    """

    name: ClassVar[str] = "nearest"
    summary: ClassVar[str] = "by the nearest neighbour (k = 1)"

    energy: Tensor
    """Mean of E/n_atoms for each pair, [119 · 119] eV."""
    forces: Tensor
    """Mean force vector for each pair, [119 · 119, 3] eV/Å."""
    stress: Tensor
    """Mean of stress/n_atoms for each pair, [119 · 119, 9] eV/Å³."""
    counts: Tensor
    """Numbers of atoms from which the means of energy, forces and stress come, [3, 119 · 119]."""

    @classmethod
    def fit(cls, dataset: PackedDataset, indices: NDArray[np.int64]) -> Self:
        energy, forces, stress = MaskedSum(N_Z * N_Z), MaskedSum(N_Z * N_Z, 3), MaskedSum(N_Z * N_Z, 9)
        for batch in batches(dataset, indices):
            own, n = batch.atomic_numbers * N_Z, batch.atoms_per_structure.double()
            near = nearest_elements(batch)
            energy_share = None if batch.energy is None else (batch.energy / n)[batch.batch]
            stress_share = None if batch.stress is None else (batch.stress.reshape(-1, 9) / n[:, None])[batch.batch]
            for rows, key in ((slice(None), own), (near > 0, own + near)):
                for total, x in ((energy, energy_share), (forces, batch.forces), (stress, stress_share)):
                    total.add(key[rows], None if x is None else x[rows])
        counts = torch.stack([energy.count, forces.count, stress.count])
        return cls(energy.mean(), forces.mean(), stress.mean(), counts)

    def __call__(self, batch: AtomicBatch) -> Outputs:
        own, near = batch.atomic_numbers * N_Z, nearest_elements(batch)
        # Each label has its own back-off, since a key may have forces but no stress.
        keys = [torch.where(count.to(near.device)[own + near] > 0, own + near, own) for count in self.counts]
        energy = self.energy.to(near.device)[keys[0]]
        stress = self.stress.to(near.device)[keys[2]]
        n = batch.n_structures
        return Outputs(
            energy=energy.new_zeros(n).index_add_(0, batch.batch, energy),
            forces=self.forces.to(batch.positions)[keys[1]],
            stress=stress.new_zeros(n, 9).index_add_(0, batch.batch, stress).reshape(n, 3, 3).to(batch.cell),
        )

    def plain(self) -> dict[str, Any]:
        """JSON-ready tables: means and numbers of atoms, under keys such as `Al` and `Al-Ni`."""
        seen = torch.nonzero(self.counts.sum(0) > 0).flatten().tolist()
        return {
            _key_name(key): {
                "energy": self.energy[key].item(),
                "forces": self.forces[key].tolist(),
                "stress": self.stress[key].tolist(),
                "counts": [int(c) for c in self.counts[:, key]],
            }
            for key in seen
        }

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        shapes = ((N_Z**2,), (N_Z**2, 3), (N_Z**2, 9), (3, N_Z**2))
        table = cls(*(torch.zeros(shape, dtype=torch.float64) for shape in shapes))
        for name, entry in values.items():
            key = _key_of(name)
            table.energy[key] = entry["energy"]
            for target, field in ((table.forces[key], "forces"), (table.stress[key], "stress")):
                target.copy_(torch.tensor(entry[field], dtype=torch.float64))
            table.counts[:, key] = torch.tensor(entry["counts"], dtype=torch.float64)
        return table


def nearest_elements(batch: AtomicBatch) -> Tensor:
    """Atomic number of each atom's nearest neighbour, images included, [n_atoms]; 0 if there is none."""
    positions = batch.positions.detach().cpu().double().numpy()
    numbers, cells, pbc = (x.detach().cpu().numpy() for x in (batch.atomic_numbers, batch.cell.double(), batch.pbc))
    ends = np.cumsum(batch.atoms_per_structure.cpu().numpy())
    parts = [
        _nearest(positions[a:b], numbers[a:b], cell, periodic)
        for a, b, cell, periodic in zip(np.r_[0, ends[:-1]], ends, cells, pbc.astype(bool))
    ]
    return torch.from_numpy(np.concatenate(parts)).to(batch.atomic_numbers)


def _nearest(
    positions: NDArray[np.float64], numbers: NDArray[np.int64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
) -> NDArray[np.int64]:
    from matscale.core.data.neighbors import neighbors  # start-up: vesin

    n = len(positions)
    if n == 1 and not pbc.any():
        return np.zeros(1, dtype=np.int64)
    cutoff, reach = FIRST_CUTOFF, _reach(positions, cell, pbc)
    while True:
        (j, i), shift = neighbors(positions, cell, pbc, Graph.radius(cutoff))
        # Sorted by centre: one block of edges per atom, if every atom has one.
        starts = np.searchsorted(i, np.arange(n))
        if len(i) and (np.bincount(i, minlength=n) > 0).all():
            break
        if cutoff > reach:
            raise DataError(
                f"An atom has no neighbour within {cutoff:g} Å, though one must lie within {reach:g} Å: the positions "
                f"{positions[:3].tolist()}... in the cell {cell.tolist()} cannot be searched. Remove the structure."
            )
        cutoff *= 2.0
    distance = np.linalg.norm(positions[j] - positions[i] + shift @ cell, axis=1)
    nearest = np.minimum.reduceat(distance, starts)
    candidates = np.where(distance <= nearest[i] + TIE, numbers[j], N_Z)
    return np.minimum.reduceat(candidates, starts).astype(np.int64)


def _reach(positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> float:
    """Distance [Å] within which every atom must have a neighbour: an image of itself, or another atom."""
    if pbc.any():
        return float(np.linalg.norm(cell[pbc], axis=1).min())
    return float(np.linalg.norm(np.ptp(positions, axis=0)))


def _key_name(key: int) -> str:
    from ase.data import chemical_symbols  # start-up: ase

    own, near = divmod(key, N_Z)
    return chemical_symbols[own] + (f"-{chemical_symbols[near]}" if near else "")


def _key_of(name: str) -> int:
    from ase.data import atomic_numbers  # start-up: ase

    own, _, near = name.partition("-")
    return atomic_numbers[own] * N_Z + (atomic_numbers[near] if near else 0)
