"""Which structures made a loss that is not finite."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.store.packed import PackedDataset
from matscale.core.model.outputs import Outputs

_NAMED = 8


def suspects(outputs: Outputs, batch: AtomicBatch) -> list[int]:
    """Rows of the dataset whose prediction is not finite, or whose label is infinite."""
    bad = ~torch.isfinite(outputs.energy)
    for label in (batch.energy, batch.stress):
        if label is not None:
            bad |= torch.isinf(label.reshape(len(label), -1)).any(dim=1)
    for per_atom in (outputs.forces, None if batch.forces is None else torch.nan_to_num(batch.forces, nan=0.0)):
        if per_atom is not None:
            bad[batch.batch[~torch.isfinite(per_atom).all(dim=1)]] = True
    if outputs.stress is not None:
        # A structure without volume has no stress; NaN is the right answer there.
        bad |= ~torch.isfinite(outputs.stress).flatten(1).all(dim=1) & batch.has_volume()
    return [] if batch.index is None else batch.index[bad].tolist()


def named(dataset: PackedDataset, rows: Sequence[int]) -> str:
    """`structure 17 (Al2O3, 10 atoms), ...` for a message."""
    parts = []
    for row in rows[:_NAMED]:
        structure = dataset.structure(row)
        parts.append(f"structure {row} ({structure.formula}, {len(structure)} atoms)")
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return ", ".join(parts) + more
