"""What a run will go through, from the sizes of its structures alone: steps, shapes of batches, validations.

No batch is made. Edges are those of the graph cache where there is one; else a sample says how many an atom has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matscale.core.architecture import BatchShape
from matscale.core.data.graph_cache import open_cache
from matscale.core.data.loader import Loader
from matscale.core.train.distributed import World
from matscale.core.train.setup import Setup

N_SAMPLED, N_BATCHES = 512, 2048
"""Structures whose edges are counted where there is no cache; batches of an epoch that are looked at."""


@dataclass(frozen=True)
class Shapes:
    """Sizes of the structures of a dataset."""

    n_atoms: NDArray[np.integer]
    """[structures]"""
    n_edges: NDArray[np.integer] | None
    """[structures] from the cache; None: by `degree`."""
    degree: float
    """Mean number of neighbours of an atom."""
    triplets: float
    """Mean number of ordered pairs of neighbours of an atom."""

    @classmethod
    def of(cls, setup: Setup) -> Shapes:
        """Counts the edges of a sample of the training structures."""
        cache, dataset, graph = open_cache(setup.dataset, setup.graph), setup.dataset, setup.graph
        if not graph.has_edges:
            return cls(dataset.n_atoms, None, 0.0, 0.0)
        rows = setup.train[np.unique(np.linspace(0, len(setup.train) - 1, N_SAMPLED).astype(int))]
        shape = dataset.batch(rows, graph).shape
        n_edges = None if cache is None else cache.n_edges
        return cls(dataset.n_atoms, n_edges, shape.n_edges / shape.n_atoms, shape.n_triplets / shape.n_atoms)

    def batch(self, rows: NDArray[np.int64]) -> BatchShape:
        """Of a batch of these rows of the dataset."""
        atoms = self.n_atoms[rows].astype(np.int64)
        n = int(atoms.sum())
        n_edges = round(self.degree * n) if self.n_edges is None else int(self.n_edges[rows].sum())
        return BatchShape(len(rows), n, n_edges, int((atoms**2).sum()), lambda: round(self.triplets * n))


def sampled(loader: Loader, shapes: Shapes) -> list[BatchShape]:
    """Shapes of the batches of the first epoch; of many, evenly chosen ones."""
    places = np.unique(np.linspace(0, loader.n_batches(0) - 1, N_BATCHES).astype(int))
    return [shapes.batch(loader.members(0, int(k))) for k in places]


@dataclass(frozen=True)
class Outlook:
    """Batches and steps of a run by one process."""

    batches: list[BatchShape]
    """Of training, a sample of one epoch."""
    validation: list[BatchShape]
    """A sample of one validation."""
    batches_per_epoch: int
    validation_batches: int
    steps_per_epoch: int
    steps_of_epochs: int | None
    """In all epochs that are asked for; None if only something else limits the run."""

    @classmethod
    def of(cls, setup: Setup) -> Outlook:
        """From the loaders that training will use."""
        config, shapes = setup.config, Shapes.of(setup)
        training, validation = setup.training_loader(World()), setup.validation_loader(World())
        per_epoch = [-(-n // config.batch.accumulate) for n in _batches(training, config.budget.epochs or 1)]
        return cls(
            sampled(training, shapes),
            sampled(validation, shapes),
            training.n_batches(0),
            validation.n_batches(0),
            per_epoch[0],
            sum(per_epoch) if config.budget.epochs else None,
        )

    def validations(self, steps: int, every: int | None, every_epochs: int) -> int:
        """How many there are in so many steps; the last one is always there."""
        interval = every if every is not None else every_epochs * self.steps_per_epoch
        return -(-steps // interval)


def _batches(loader: Loader, epochs: int) -> Iterator[int]:
    """Batches in each epoch; all alike unless atoms or edges limit a batch."""
    alike = loader.budget.atoms is loader.budget.edges is None
    for epoch in range(epochs):
        yield loader.n_batches(0 if alike else epoch)
