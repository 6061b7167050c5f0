"""Interface of baselines, and the sums that are needed to fit them."""

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
"""Number of structures that are in memory at a time while a baseline is fitted."""


class Baseline(ABC):
    """Baseline: predicts Outputs in physical units for an AtomicBatch, as a Potential does, but without edges."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @classmethod
    @abstractmethod
    def fit(cls, dataset: PackedDataset, indices: NDArray[np.int64]) -> Self:
        """Fit to the structures at `indices` of `dataset`. Missing labels are left out of every mean."""

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
    """Yield batches of the structures at `indices`, in float64 and without edges."""
    for start in range(0, len(indices), CHUNK):
        yield dataset.batch(indices[start : start + CHUNK], Graph.none(), dtype=torch.float64)


def passes(dataset: PackedDataset, indices: NDArray[np.int64]) -> Callable[[], Iterator[AtomicBatch]]:
    """Make the argument `batches` of `evaluate_baselines`, for the structures at `indices`.

    It is a function; each call starts a new pass over the structures, in order.
    """
    return partial(batches, dataset, indices)


class MaskedSum:
    """Sums of rows, and numbers of rows, for each of several classes. Rows with NaN are left out.

    A row is a label of an atom or of a structure; a class is, for example, an element.
    """

    def __init__(self, n_classes: int, *shape: int) -> None:
        self.total = torch.zeros(n_classes, *shape, dtype=torch.float64)
        self.count = torch.zeros(n_classes, dtype=torch.float64)

    def add(self, classes: Tensor, x: Tensor | None) -> None:
        """Add rows `x` [n, *shape]; row k belongs to class number `classes[k]`. NaN stands for a missing label."""
        if x is None:
            return
        labelled = torch.isfinite(x.reshape(len(x), -1)).all(1)
        classes = classes[labelled]
        self.total.index_add_(0, classes, x[labelled].double())
        self.count.index_add_(0, classes, torch.ones_like(classes, dtype=torch.float64))

    def mean(self) -> Tensor:
        """Mean of the rows of each class, [n_classes, *shape]; 0 for a class without rows."""
        count = self.count.clamp(min=1.0)
        return self.total / count.reshape(-1, *(1,) * (self.total.dim() - 1))


def single(n: int) -> Tensor:
    """Class numbers, all 0, for n rows that belong to one class."""
    return torch.zeros(n, dtype=torch.long)
