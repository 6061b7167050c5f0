"""Interface of a baseline, and sums for fitting baselines: in float64, in chunks, without missing labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.model.outputs import Outputs

if TYPE_CHECKING:
    from matscale.core.data.store.packed import PackedDataset

CHUNK = 1024
"""Number of structures that are in memory at once while a baseline is fitted."""


class Baseline(ABC):
    """Baseline: maps an AtomicBatch to Outputs in physical units, like a Potential; it needs no edges."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @classmethod
    @abstractmethod
    def fit(cls, dataset: PackedDataset, indices: NDArray[np.int64]) -> Self:
        """Fit to the structures `indices` of `dataset`; missing labels are left out of every mean."""

    @abstractmethod
    def __call__(self, batch: AtomicBatch) -> Outputs:
        """Predict energy [n_structures] eV (float64), forces [n_atoms, 3] eV/Å, stress [n_structures, 3, 3] eV/Å³."""

    @abstractmethod
    def plain(self) -> dict[str, Any]:
        """Fitted parameters of the baseline as JSON-ready values."""

    @classmethod
    @abstractmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Restore a baseline from the result of `plain`."""


def batches(dataset: PackedDataset, indices: NDArray[np.int64]) -> Iterator[AtomicBatch]:
    """Yield the structures `indices` in float64, without edges, a chunk at a time."""
    for start in range(0, len(indices), CHUNK):
        yield dataset.batch(indices[start : start + CHUNK], Graph.none(), dtype=torch.float64)


def passes(dataset: PackedDataset, indices: NDArray[np.int64]) -> Callable[[], Iterator[AtomicBatch]]:
    """Make a function that starts a new pass over the structures `indices`, in order, for `evaluate_baselines`."""
    return partial(batches, dataset, indices)


class MaskedSum:
    """Running sums of labelled rows, and their counts, for each of several classes."""

    def __init__(self, n_classes: int, *shape: int) -> None:
        self.total = torch.zeros(n_classes, *shape, dtype=torch.float64)
        self.count = torch.zeros(n_classes, dtype=torch.float64)

    def add(self, classes: Tensor, x: Tensor | None) -> None:
        """Add rows `x` [n, *shape] with NaN for missing labels; row k belongs to class `classes[k]`."""
        if x is None:
            return
        labelled = torch.isfinite(x.reshape(len(x), -1)).all(1)
        classes = classes[labelled]
        self.total.index_add_(0, classes, x[labelled].double())
        self.count.index_add_(0, classes, torch.ones_like(classes, dtype=torch.float64))

    def mean(self) -> Tensor:
        """Mean of each class [n_classes, *shape]; 0 for a class without rows."""
        count = self.count.clamp(min=1.0)
        return self.total / count.reshape(-1, *(1,) * (self.total.dim() - 1))


def single(n: int) -> Tensor:
    """Class numbers for n rows that all belong to one class."""
    return torch.zeros(n, dtype=torch.long)
