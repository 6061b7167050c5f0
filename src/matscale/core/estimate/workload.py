"""Forecast of a run's steps, batch shapes and validations from the sizes of its structures.

No batch of the run is made. Numbers of edges come from the graph cache, are counted for a small dataset, or are
estimated from a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from matscale.core.data.batch import BatchShape
from matscale.core.data.loader import Loader
from matscale.core.data.store.edge_cache import open_cache
from matscale.core.train.optimizer.accumulation import steps_of
from matscale.core.train.setup import Setup

N_SAMPLED, N_BATCHES = 2048, 2048
"""Largest number of structures whose edges are all counted (without a cache), and of batches sampled from an epoch."""
_CHUNK = 256


@dataclass(frozen=True)
class Shapes:
    """Numbers of atoms and edges of the structures of a dataset."""

    n_atoms: NDArray[np.integer]
    """Number of atoms of each structure, [n_structures]."""
    n_edges: NDArray[np.integer] | None
    """Number of edges of each structure, [n_structures]; None if `degree` gives an estimate."""
    degree: float
    """Mean number of neighbours of an atom."""
    triplets: float
    """Mean number of ordered pairs of neighbours of an atom."""

    @classmethod
    def of(cls, setup: Setup) -> Shapes:
        """Take the edges from the cache, or count them: in all structures of a small dataset, or in a sample."""
        dataset, cache = setup.dataset, open_cache(setup.dataset, setup.graph)
        if not setup.graph.has_edges:
            return cls(dataset.n_atoms, None, 0.0, 0.0)
        rows = np.concatenate([setup.train, setup.validation])
        is_sample = len(rows) > N_SAMPLED
        if is_sample:
            rows = setup.train[np.unique(np.linspace(0, len(setup.train) - 1, N_SAMPLED // 4).astype(int))]
        counted, triplets = np.zeros(len(dataset) if cache is None and not is_sample else 0, np.int64), 0
        edges = 0
        for first in range(0, len(rows), _CHUNK):
            chunk = rows[first : first + _CHUNK]
            batch = dataset.batch(chunk, setup.graph)
            edges, triplets = edges + batch.n_edges, triplets + batch.shape.n_triplets
            if counted.size:
                counted[chunk] = np.bincount(batch.batch[batch.edges()[1]].numpy(), minlength=len(chunk))
        n = int(dataset.n_atoms[rows].sum())
        n_edges = counted if counted.size else None if cache is None else cache.n_edges
        return cls(dataset.n_atoms, n_edges, edges / n, triplets / n)

    def batch(self, rows: NDArray[np.int64]) -> BatchShape:
        """Shape of a batch of these rows of the dataset."""
        atoms = self.n_atoms[rows].astype(np.int64)
        n = int(atoms.sum())
        n_edges = round(self.degree * n) if self.n_edges is None else int(self.n_edges[rows].sum())
        return BatchShape(len(rows), n, n_edges, int((atoms**2).sum()), lambda: round(self.triplets * n))


@dataclass(frozen=True)
class Sample:
    """Batches of an epoch in order: all of them, or an evenly spaced sample."""

    places: NDArray[np.int64]
    shapes: list[BatchShape]
    n_batches: int
    """Number of batches in the whole epoch."""

    @classmethod
    def of(cls, loader: Loader, shapes: Shapes) -> Sample:
        """Take the sample from the loader's first epoch."""
        n = loader.n_batches(0)
        places = np.unique(np.linspace(0, max(n - 1, 0), N_BATCHES).astype(int))
        return cls(places, [shapes.batch(loader.members(0, int(k))) for k in places], n)

    def dearest(self, cost: Callable[[BatchShape], float]) -> int:
        """Index of the most expensive batch in the epoch."""
        return int(self.places[int(np.argmax([cost(shape) for shape in self.shapes]))])

    def total(self, cost: Callable[[BatchShape], float], n_batches: float | None = None) -> float:
        """Total cost of the first `n_batches` batches, which may span several epochs; by default, of one epoch."""
        costs = np.array([cost(shape) for shape in self.shapes])
        epochs, rest = divmod(self.n_batches if n_batches is None else n_batches, self.n_batches)
        begun = costs[self.places < rest]  # a run of less than an epoch sees its first batches
        return float(epochs * self.n_batches * costs.mean() + (rest * begun.mean() if begun.size else 0.0))


@dataclass(frozen=True)
class TrainingForecast:
    """Forecast of the batches and steps of a run that uses one process."""

    training: Sample
    validation: Sample
    steps_per_epoch: int
    steps_of_epochs: int | None
    """Steps in all epochs of the budget; None if the budget has no number of epochs."""

    @classmethod
    def of(cls, setup: Setup) -> TrainingForecast:
        """Make the forecast with the loaders that training will use."""
        config, shapes = setup.config, Shapes.of(setup)
        training, validation = setup.training_loader(), setup.validation_loader()
        count = partial(steps_of, training, config.batch.accumulate)
        in_all = count(config.budget.epochs) if config.budget.epochs else None
        return cls(Sample.of(training, shapes), Sample.of(validation, shapes), count(1), in_all)

    def flops(self, cost: Callable[[BatchShape], float], steps: int) -> float:
        """FLOPs of the first `steps` training steps."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        per_step = -(-self.training.n_batches // self.steps_per_epoch)  # the last step may have fewer batches
        return self.training.total(cost, epochs * self.training.n_batches + rest * per_step)

    def steps_for(self, cost: Callable[[BatchShape], float], flops: float) -> int:
        """Number of whole steps that can be made with `flops`."""
        steps = int(flops // self.flops(cost, 1))
        for _ in range(8):  # steps differ in cost, so one or two secant steps find the number
            spent = self.flops(cost, steps)
            mean = spent / max(steps, 1)
            change = math.floor((flops - spent) / mean) if mean else 0
            if not steps or not change:
                break
            steps += change
        return steps

    def validations(self, steps: int, every: int | None, every_epochs: int) -> int:
        """Number of validations in `steps` steps; the last step is always followed by one."""
        interval = every if every is not None else every_epochs * self.steps_per_epoch
        return -(-steps // interval)
