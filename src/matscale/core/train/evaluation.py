"""Evaluation: errors of any predictor, such as a trained potential, a baseline or an outside model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from matscale.core.data.batch import AtomicBatch
from matscale.core.model.outputs import Outputs
from matscale.core.runs.config import LossConfig
from matscale.core.train.loss import LabelObjective, Objective
from matscale.core.train.metrics import Metrics, Sums
from matscale.core.train.processes.world import World

Predictor = Callable[[AtomicBatch], Outputs]


def evaluate(predictor: Predictor, batches: Iterable[AtomicBatch], loss: LossConfig | None = None) -> dict[str, float]:
    """Errors of a predictor in energy [eV/atom], forces [eV/Å] and stress [eV/Å³], and the loss that compares models.

    Results do not depend on how the structures are divided into batches.

    An `nn.Module` is set to evaluation mode (no dropout), with its own stream of random numbers. If `loss` is given,
    the value of this loss is added under the key `objective`. The other keys are listed in
    `matscale.core.train.metrics`, besides `n_structures` and `n_atoms`.
    """
    objective = None
    if loss is not None:
        from matscale.core.hosting.host import host  # start-up: plugins

        objective = LabelObjective(loss, host().loss)
    return tally(predictor, batches, objective).values()


class EvaluationSums:
    """Sums of errors and numbers of items in an evaluation, which are added over processes before means are formed."""

    def __init__(self, objective: Objective | None) -> None:
        self.objective = objective
        self.metrics: Sums | None = None
        self.counts = {"n_structures": 0.0, "n_atoms": 0.0}
        self.items = dict.fromkeys(objective.terms if objective else (), 0.0)
        self.sums = dict(self.items)

    def add(self, outputs: Outputs, batch: AtomicBatch) -> None:
        """Add a batch."""
        self.metrics = self.metrics or self._sums(batch.positions.device)
        self.metrics.update(outputs, batch)
        self.counts["n_structures"] += batch.n_structures
        self.counts["n_atoms"] += batch.n_atoms
        if self.objective is not None:
            for name, count in self.objective.counts(batch).items():
                self.items[name] += count
            for name, value in self.objective.sums(outputs, batch).items():
                self.sums[name] += float(value)

    def _sums(self, device: torch.device) -> Sums:
        return Metrics(device) if self.objective is None else self.objective.metrics(device)

    def over(self, world: World, device: torch.device) -> EvaluationSums:
        """Add the sums of all processes in place, and return this object."""
        self.metrics = self.metrics or self._sums(device)
        world.sum(self.metrics.sums)
        self.counts = world.sums(self.counts)
        self.items, self.sums = world.sums(self.items), world.sums(self.sums)
        return self

    def values(self) -> dict[str, float]:
        """Compute the mean of each metric, by its key."""
        values: dict[str, float] = {} if self.metrics is None else self.metrics.values()
        if self.objective is not None:
            sums = {name: torch.tensor(v, dtype=torch.float64) for name, v in self.sums.items() if self.items[name]}
            values["objective"] = float(self.objective.total(sums, self.items))
        return {**values, **{name: int(count) for name, count in self.counts.items()}}


def tally(predictor: Predictor, batches: Iterable[AtomicBatch], objective: Objective | None = None) -> EvaluationSums:
    """Evaluate a predictor like `evaluate`, but return the sums and counts before means are formed."""
    result = EvaluationSums(objective)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices), _evaluating(predictor):
        torch.manual_seed(0)
        for batch in batches:
            result.add(predictor(batch), batch)
    return result


@contextmanager
def _evaluating(predictor: Predictor) -> Iterator[None]:
    if not isinstance(predictor, nn.Module):
        yield
        return
    was_training = predictor.training
    predictor.eval()
    try:
        yield
    finally:
        predictor.train(was_training)
