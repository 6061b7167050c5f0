"""Noise for denoising: random displacements of atoms, and forces that point back to the original positions.

The noise of a structure is a pure function of (seed, epoch, its row in the dataset), so that a resumed run draws the
same noise, with any number of processes.
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
"""Stream of random numbers, separate from those of the loader."""


@dataclass(frozen=True)
class Noise:
    """Independent normal displacements of all atoms."""

    sigma: float
    """Standard deviation of each component of a displacement [Å]."""

    def displaced(self, batch: AtomicBatch, graph: Graph, *words: int) -> AtomicBatch:
        """Return the batch with its atoms displaced and with the edges of the new positions.

        `forces` of the result are minus the displacements, as if springs of 1 eV/Å² pulled the atoms back. Energy and
        stress are left out. The mean displacement of each structure is subtracted, and the rest is scaled up so that
        the variance stays sigma². Single atoms are not displaced. `words`: seed, epoch, ... of the random numbers.
        """
        assert batch.index is not None
        counts = batch.atoms_per_structure.numpy()
        moved = torch.from_numpy(self.displacements(batch.index.numpy(), counts, *words))
        positions = batch.positions.double() + moved
        back = -moved.to(batch.positions.dtype)
        bare = replace(batch, edge_index=None, edge_shift=None, energy=None, stress=None, forces=back)
        return with_edges(bare.with_geometry(positions.to(batch.positions.dtype), batch.cell), graph)

    def displacements(self, rows: NDArray[np.int64], counts: NDArray[np.integer], *words: int) -> NDArray[np.float64]:
        """Draw displacements [n_atoms, 3] Å for the structures at `rows` of the dataset, which have `counts` atoms.

        A pure function of (words, row, atom).
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
