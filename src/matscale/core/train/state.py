"""Position of a run in its training: the counts that a resumed run needs in addition to its tensors."""

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
    """Counts since the start of the run, over all sessions and processes. Plain numbers, stored exactly in JSON."""

    step: int = 0
    """Optimizer steps done."""
    epoch: int = 0
    """Epochs completed."""
    batch: int = 0
    """Number of used batches of the current epoch, over all processes."""
    structures: int = 0
    atoms: int = 0
    edges: int = 0
    """Numbers of structures, atoms and edges seen in training, repetitions included."""
    flops: float = 0.0
    """FLOPs of training, without validation."""
    validation_flops: float = 0.0
    wall_s: float = 0.0
    skipped: int = 0
    """Number of steps skipped because the loss or gradient was not finite."""
    best: dict[str, Any] | None = None
    """Row of metrics.jsonl of the best validation."""
    validated: dict[str, Any] | None = None
    """Row of metrics.jsonl of the latest validation."""
    since_best: int = 0
    """Number of validations since the best one."""

    @property
    def best_step(self) -> int | None:
        return None if self.best is None else int(self.best["step"])

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def seen(self, totals: dict[str, float]) -> None:
        """Add the counts of the global batch of a step."""
        self.structures += int(totals["structures"])
        self.atoms += int(totals["atoms"])
        self.edges += int(totals["edges"])

    def advance(self, n_batches: int, n_batches_of_epoch: int) -> None:
        """Advance by one step of `n_batches` batches."""
        self.step += 1
        self.batch += n_batches
        if self.batch >= n_batches_of_epoch:
            self.epoch, self.batch = self.epoch + 1, 0


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed the random generators of a step (for dropout) from (seed, step, rank).

    So a step of a resumed run draws the same numbers, and the state of the generators need not be saved.
    """
    torch.manual_seed(mix((seed, step, rank)))


def mix(parts: Iterable[int]) -> int:
    """Hash a few integers to a 63-bit number; similar inputs give unrelated outputs.

    >>> mix([0, 1]) == mix([0, 1]), mix([0, 1]) == mix([1, 0])
    (True, False)
    """
    value = 0
    for part in parts:
        value = int(mixed(np.array([(value + part) % 2**64], np.uint64))[0])
    return value & MASK
