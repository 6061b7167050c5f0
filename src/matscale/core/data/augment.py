"""Noise for the pre-training task `denoise`: random displacements of atoms, and forces that point back.

The noise of a structure is a pure function of the seed, the epoch and the structure's row in the dataset. Therefore a
resumed run draws the same noise, and so does a run with another number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from matscale.core.counter_rng import uniforms
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import with_edges

_NOISE = 4
"""Number of the random stream for noise; the loader uses other numbers."""


@dataclass(frozen=True)
class Noise:
    """Random displacements of all atoms, independent and normally distributed."""

    sigma: float
    """Standard deviation of each component of a displacement [Å]."""

    def displaced(self, batch: AtomicBatch, graph: Graph, *words: int) -> AtomicBatch:
        """Return the batch with its atoms displaced, and with edges found by `graph` at the new positions.

        `forces` of the result are minus the displacements, as if springs of 1 eV/Å² pulled the atoms back; energy and
        stress are left out. The mean displacement of each structure is subtracted, and the rest is scaled up so that
        the variance stays sigma². Single atoms are not displaced. `words` are the integers that determine the random
        numbers: seed, epoch, ...
        """
        assert batch.index is not None
        counts = batch.atoms_per_structure.numpy()
        moved = torch.from_numpy(self.displacements(batch.index.numpy(), counts, *words))
        positions = batch.positions.double() + moved
        back = -moved.to(batch.positions.dtype)
        bare = replace(batch, edge_index=None, edge_shift=None, energy=None, stress=None, forces=back)
        return with_edges(bare.with_geometry(positions.to(batch.positions.dtype), batch.cell), graph)

    def displacements(self, rows: NDArray[np.int64], counts: NDArray[np.integer], *words: int) -> NDArray[np.float64]:
        """Draw displacements [n_atoms, 3] Å of the atoms in the structures at `rows` of the dataset.

        `counts` [len(rows)] has the number of atoms of each structure. The displacement of an atom is a pure function
        of `words`, the row of the structure, and the atom's place in the structure.
        """
        most = int(counts.max(initial=0))
        first, second = uniforms(rows, 6 * most, _NOISE, *words).reshape(len(rows), most, 2, 3).transpose(2, 0, 1, 3)
        normal = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)  # Box and Muller
        is_atom = np.arange(most) < counts[:, None]
        normal = np.where(is_atom[:, :, None], normal, 0.0)
        centred = normal - normal.sum(axis=1, keepdims=True) / np.maximum(counts, 1)[:, None, None]
        restored = np.sqrt(counts / np.maximum(counts - 1, 1))[:, None, None]  # restores the variance
        drawn: NDArray[np.float64] = self.sigma * (restored * centred)[is_atom]
        return drawn
