"""Position of a run in its training: the state besides tensors from which a resumed run continues."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from matscale.core.counter_rng import mixed

MASK = (1 << 63) - 1


@dataclass
class TrainingState:
    """Counts since the start of the run, over all sessions and processes. Plain numbers, kept exactly in JSON."""

    step: int = 0
    """Optimizer steps done."""
    epoch: int = 0
    """Epochs completed."""
    batch: int = 0
    """Batches of the current epoch that are used, on each process."""
    structures: int = 0
    atoms: int = 0
    edges: int = 0
    """Seen in training, each counted every time."""
    flops: float = 0.0
    """FLOPs of training, without validation."""
    validation_flops: float = 0.0
    wall_s: float = 0.0
    skipped: int = 0
    """Steps skipped because the loss or gradient was not finite."""
    best: dict[str, Any] | None = None
    """The row of the best validation."""
    validated: dict[str, Any] | None = None
    """The row of the latest validation."""
    since_best: int = 0
    """Validations since the best one."""

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def seen(self, totals: dict[str, float]) -> None:
        """Count the global batch of a step."""
        self.structures += int(totals["structures"])
        self.atoms += int(totals["atoms"])
        self.edges += int(totals["edges"])

    def advance(self, n_batches: int, n_batches_of_epoch: int) -> None:
        """Count one more step, of `n_batches` batches."""
        self.step += 1
        self.batch += n_batches
        if self.batch >= n_batches_of_epoch:
            self.epoch, self.batch = self.epoch + 1, 0


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed the random generators of a step (for dropout) from (seed, step, rank).

    No state of a random generator has to be saved: a resumed step draws the same numbers.
    """
    torch.manual_seed(mix((seed, step, rank)))


def mix(parts: Iterable[int]) -> int:
    """Mix a few integers into a 63-bit number; close inputs give unrelated outputs.

    >>> mix([0, 1]) == mix([0, 1]), mix([0, 1]) == mix([1, 0])
    (True, False)
    """
    value = 0
    for part in parts:
        value = int(mixed(np.array([(value + part) % 2**64], np.uint64))[0])
    return value & MASK
