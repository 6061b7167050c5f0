"""Conversion between the flat list of atoms and the padded layout that attention needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from matscale.core.data.batch import AtomicBatch


@dataclass(frozen=True)
class Padding:
    """Position of each atom of a batch in the padded layout [n_structures, max_atoms]."""

    rank: Tensor
    """[n_atoms] index of each atom in its structure, from 0."""
    slot: Tensor
    """[n_atoms] index of each atom in the flattened padded layout."""
    mask: Tensor
    """[n_structures, max_atoms], True where there is an atom."""

    @classmethod
    def of(cls, batch: AtomicBatch) -> Padding:
        """Make the padding of a batch; all layers share it."""
        counts = batch.atoms_per_structure
        max_atoms = int(counts.max())
        number = torch.arange(batch.n_atoms, device=batch.batch.device)
        rank = number - (torch.cumsum(counts, 0) - counts)[batch.batch]
        mask = torch.arange(max_atoms, device=counts.device) < counts[:, None]
        return cls(rank, batch.batch * max_atoms + rank, mask)

    def dense(self, x: Tensor) -> Tensor:
        """Pad `x` [n_atoms, ...] with zeros; returns [n_structures, max_atoms, ...]."""
        out = x.new_zeros(self.mask.numel(), *x.shape[1:]).index_copy(0, self.slot, x)
        return torch.unflatten(out, 0, tuple(self.mask.shape))

    def flat(self, x: Tensor) -> Tensor:
        """Remove the padding; the inverse of `dense`."""
        return x.flatten(0, 1).index_select(0, self.slot)
