"""What a learner minimises and what is measured of it: `Objective` for labels, and the goals of pre-training."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from matscale.core.data.batch import AtomicBatch
from matscale.core.model.outputs import Outputs

if TYPE_CHECKING:
    from matscale.core.train.metrics import Sums


class Goal(Protocol):
    """A loss as sums and counts per term, so that uneven batches and ranks add up exactly."""

    @property
    def terms(self) -> Collection[str]:
        """Their names."""

    def counts(self, batch: AtomicBatch) -> dict[str, int]:
        """Items per term: known before the model has run."""

    def sums(self, outputs: Outputs, batch: AtomicBatch) -> dict[str, Tensor]:
        """Sum over items per term (float64 scalars); terms without items are left out."""

    def total(self, sums: Mapping[str, Tensor], counts: Mapping[str, float]) -> Tensor:
        """The loss. With the counts of a larger batch: this part's share of that batch's loss."""

    def metrics(self, device: torch.device | str) -> Sums:
        """Empty sums of the errors that rows of metrics.jsonl show."""
