"""The minimum-image distance in any cell.

The cell is Minkowski-reduced first: of a reduced cell the images next to the wrapped vector suffice, however skewed the
cell was that the structure came in. Reduction: Nguyen & Stehlé, doi:10.1145/1597036.1597050, as ASE does it.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from matscale.core.data.batch import AtomicBatch

_NEXT = torch.tensor(list(product((-1, 0, 1), repeat=3)), dtype=torch.float64)
"""[27, 3]"""


def minimum_image_distance(batch: AtomicBatch, i: Tensor, j: Tensor) -> Tensor:
    """[n_pairs] Å in float64: from atom i to the nearest image of atom j of the same structure; no gradient."""
    structure = batch.batch.index_select(0, i)
    positions, pbc = batch.positions.detach().double(), batch.pbc.double()
    cells = reduced_cells(batch).to(positions.device)
    vector = positions.index_select(0, j) - positions.index_select(0, i)
    cell, periodic = cells.index_select(0, structure), pbc.index_select(0, structure)
    fractional = torch.einsum("pa,pab->pb", vector, torch.linalg.inv(cell))
    wrapped = fractional - periodic * fractional.round()
    candidates = wrapped[:, None] + periodic[:, None] * _NEXT.to(positions.device)  # [n_pairs, 27, 3]
    return torch.linalg.vector_norm(candidates @ cell, dim=-1).amin(1)


def reduced_cells(batch: AtomicBatch) -> Tensor:
    """[n_structures, 3, 3] Å on the CPU: Minkowski-reduced lattice vectors; open axes get some that complete them."""
    from ase.geometry import complete_cell, minkowski_reduce

    cells, pbc = batch.cell.detach().double().cpu().numpy(), batch.pbc.cpu().numpy()
    found = []
    for cell, periodic in zip(cells, pbc):
        whole = complete_cell(np.where(periodic[:, None], cell, 0.0))
        found.append(minkowski_reduce(whole, pbc=periodic)[0] if periodic.any() else whole)
    return torch.from_numpy(np.stack(found))
