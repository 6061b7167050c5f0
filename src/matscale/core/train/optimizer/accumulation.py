"""Gradient accumulation: group the batches of each optimizer step, starting from any position in any epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from matscale.core.data.batch import AtomicBatch, BatchShape
from matscale.core.data.loader import Loader
from matscale.core.errors import ConfigError
from matscale.core.train.loss import Objective
from matscale.core.train.processes.world import World


@dataclass(frozen=True)
class StepBatches:
    """Batches of one optimizer step on this process."""

    batches: list[AtomicBatch]
    """Micro-batches of this process."""
    n_batches: int
    """Number of batches of the epoch in this step, which all processes share."""
    shapes: list[BatchShape]
    labelled: dict[str, float]
    """Number of labelled items (structures or atoms) in these batches, by the name of the term of the loss."""
    waited: float
    """Seconds spent waiting for the batches."""


WALKED = 1 << 25
"""Largest number of structures, counted again in every epoch, over which `steps_of` counts epochs one by one."""


def steps_of(loader: Loader, accumulate: int, epochs: int) -> int:
    """Number of optimizer steps in `epochs` epochs.

    If batches are limited by atoms or edges, epochs differ in their number of steps. In that case the first epochs are
    counted: one, and more as long as they have at most `WALKED` structures together. Later epochs are assumed to have
    the mean number of steps of the counted ones, so that a million epochs do not take longer to count.
    """
    if loader.budget.atoms is loader.budget.edges is None:
        return epochs * -(-loader.n_batches(0) // accumulate)
    counted = min(epochs, max(1, WALKED // loader.n_structures))
    steps = sum(-(-loader.n_batches(epoch) // accumulate) for epoch in range(counted))
    return steps if counted == epochs else round(Fraction(steps * epochs, counted))


class Accumulation:
    """Batches of training, in groups of `accumulate` batches for one optimizer step each.

    A group never spans two epochs; the last group of an epoch may be smaller. One process takes the
    batches as they are. Several processes divide their structures: see `Loader.shared`.
    """

    def __init__(
        self, loader: Loader, accumulate: int, device: torch.device, objective: Objective, world: World | None = None
    ) -> None:
        self.loader, self.accumulate, self.device, self.objective = loader, accumulate, device, objective
        self.world = world or World()
        if loader.n_structures < self.world.size:
            raise ConfigError(
                f"{loader.n_structures} structures cannot be shared among {self.world.size} processes. Use fewer "
                "processes, or more data."
            )

    def groups(self, epoch: int, batch: int) -> Iterator[StepBatches]:
        """Yield groups without end, starting with batch number `batch` of `epoch`."""
        while True:
            n = self.loader.n_batches(epoch)
            for first in range(batch, n, self.accumulate):
                yield self._group(epoch, range(first, min(first + self.accumulate, n)))
            epoch, batch = epoch + 1, 0

    def _group(self, epoch: int, places: range) -> StepBatches:
        start = time.perf_counter()
        batches = [self.loader.of_rows(epoch, rows) for rows in self._micro_batches(epoch, places)]
        shapes = [batch.shape for batch in batches]
        labelled = dict.fromkeys(self.objective.terms, 0.0)
        for batch in batches:
            for name, count in self.objective.counts(batch).items():
                labelled[name] += count
        moved = [self._moved(b) for b in batches]
        return StepBatches(moved, len(places), shapes, labelled, time.perf_counter() - start)

    def _micro_batches(self, epoch: int, places: range) -> list[NDArray[np.int64]]:
        """Rows of the dataset in each micro-batch of this process."""
        if self.world.size == 1:
            return [self.loader.members(epoch, k) for k in places]
        return self.loader.shared(epoch, places, self.world.size)[self.world.rank]

    def _moved(self, batch: AtomicBatch) -> AtomicBatch:
        if self.device.type == "cpu":
            return batch
        return batch.pin_memory().to(self.device, non_blocking=True)
