"""Pretext: a task for pre-training without labels, with its own head, loss, errors, and changes to batches.

Metrics compare the errors of the task with the errors of a trivial guess.

Every pretext compares predicted with true values, in Å, of its items (atoms or pairs of atoms). Its objective is the
mean squared error divided by the squared spread of the true values: the trivial guess reaches 1, so that a value below
1 shows learning. A pretext and the loss on labels are both an `Objective`, and the trainer treats them alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matscale.core.data.augment import Noise
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.store.packed import PackedDataset
from matscale.core.model.outputs import Outputs
from matscale.core.model.potential import Potential, Scales
from matscale.core.runs.config import PretrainConfig
from matscale.core.train.metrics import Sums


class Pretext(ABC):
    """Pre-training task: an `Objective` that needs no labels."""

    term: ClassVar[str]
    """Name of the predicted quantity: `noise`, `distance`."""
    guess: ClassVar[str]
    """Trivial guess: `zero`, or `mean` for the mean of all items."""
    noise: Noise | None = None
    """Noise that the loaders add to the positions."""

    def __init__(self, spread: float) -> None:
        """Set the spread [Å], which is the root mean square error of the trivial guess."""
        self.spread = spread

    @classmethod
    @abstractmethod
    def of(cls, config: PretrainConfig, dataset: PackedDataset, rows: NDArray[np.int64]) -> Self:
        """Make the pretext for training on these rows of the dataset."""

    @abstractmethod
    def around(self, potential: Potential, architecture: str, example: AtomicBatch) -> Potential:
        """Wrap a potential for the task, with a head if the task needs one; `compared` reads the outputs.

        The names of added parameters begin with `pretext.`, and `--from` leaves these parameters out. Raises
        ConfigError for a model that cannot learn this task.
        """

    @abstractmethod
    def compared(self, outputs: Outputs, batch: AtomicBatch) -> tuple[Tensor, Tensor]:
        """Predicted and true values [Å] of the items, each [n_items, n_components]."""

    @abstractmethod
    def n_items(self, batch: AtomicBatch) -> int:
        """Number of items (atoms or pairs of atoms) in a batch, known before the model is run."""

    @property
    def scales(self) -> Scales:
        """Factors that multiply the model's outputs in this task."""
        return Scales()

    # As an objective --------------------------------------------------------------------------------------------------

    @property
    def terms(self) -> tuple[str, ...]:
        return (self.term,)

    def counts(self, batch: AtomicBatch) -> dict[str, int]:
        return {self.term: self.n_items(batch)}

    def sums(self, outputs: Outputs, batch: AtomicBatch) -> dict[str, Tensor]:
        found, true = self.compared(outputs, batch)
        if not len(true):
            return {}
        return {self.term: ((found.double() - true.double()) / self.spread).square().mean(dim=1).sum()}

    def total(self, sums: Mapping[str, Tensor], counts: Mapping[str, float]) -> Tensor:
        parts = [value / counts[name] for name, value in sums.items()]
        return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)

    def metrics(self, device: torch.device | str) -> Sums:
        return Errors(self, device)


class Errors(Sums):
    """Running sums for the metrics `<term>_mae`, `<term>_rmse` and `<term>_rmse_of_<guess>` [Å].

    All three are means over components; the last is the error of the trivial guess.
    """

    def __init__(self, pretext: Pretext, device: torch.device | str) -> None:
        super().__init__(4, device)
        self.pretext = pretext

    @torch.no_grad()
    def update(self, outputs: Outputs, batch: AtomicBatch) -> None:
        found, true = (x.double() for x in self.pretext.compared(outputs, batch))
        error = found - true
        sums = torch.stack([x.sum() for x in (error.abs(), error.square(), true, true.square())])
        self.sums += torch.stack([sums, torch.full_like(sums, true.numel())], dim=1)

    def values(self) -> dict[str, float]:
        if not self.sums[0, 1]:
            return {}
        absolute, squared, mean, square = (self.sums[:, 0] / self.sums[:, 1]).tolist()
        name, guess = self.pretext.term, self.pretext.guess
        left = square - (mean**2 if guess == "mean" else 0.0)
        trivial = max(left, 0.0) ** 0.5
        return {f"{name}_mae": absolute, f"{name}_rmse": squared**0.5, f"{name}_rmse_of_{guess}": trivial}
