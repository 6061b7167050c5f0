"""Probes: a few small batches of different structures, with which the FLOPs of a model are counted.

A probe holds one structure or copies of it, so that no model pads it: a counter would count operations on padding. For
models without padding, the last probe holds different structures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.store.packed import PackedDataset

N_FITTED, N_SAMPLED = 8, 128


@dataclass(frozen=True)
class Probes:
    """Batches to which the cost is fitted, and other batches that verify the fit."""

    fitted: Sequence[AtomicBatch]
    verified: Sequence[AtomicBatch]


def probes_of(
    dataset: PackedDataset,
    rows: NDArray[np.int64],
    graph: Graph,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Probes:
    """Choose probes among the structures in `rows`, from the smallest number of atoms to the 90 % quantile."""
    sampled = rows[np.unique(np.linspace(0, len(rows) - 1, N_SAMPLED).astype(int))]
    ordered = sampled[np.argsort(dataset.n_atoms[sampled], kind="stable")]
    places = np.linspace(0, 0.9 * (len(ordered) - 1), 2 * N_FITTED).astype(int)
    one = [dataset.batch(ordered[place : place + 1], graph, dtype).to(device) for place in places]
    fitted, others = one[::2], one[1::2]
    twice = AtomicBatch.join([fitted[0], fitted[0]])  # separates the cost of a batch from that of a structure
    small, middle = others[0], others[len(others) // 2]
    together = [middle, middle] if graph.is_dense else [small, middle, middle]
    return Probes([*fitted, twice], [others[1], AtomicBatch.join(together)])
