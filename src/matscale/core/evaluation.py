"""Errors of anything that predicts: a trained potential, a baseline, somebody else's model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from matscale.core.data.batch import AtomicBatch
from matscale.core.outputs import Outputs
from matscale.core.train.loss import LossConfig, Objective
from matscale.core.train.metrics import Metrics

Predictor = Callable[[AtomicBatch], Outputs]


def evaluate(predictor: Predictor, batches: Iterable[AtomicBatch], loss: LossConfig | None = None) -> dict[str, float]:
    """Errors in physical units (eV/atom, eV/Å, eV/Å³) and the compared loss, exact over uneven batches.

    A predictor that is an `nn.Module` is put into evaluation mode (no dropout) for the time, and its random numbers,
    if it draws any, neither depend on the caller's nor disturb them. With `loss`, `objective` is that loss. The keys
    are those of `matscale.core.train.metrics`, besides `n_structures` and `n_atoms`.
    """
    metrics: Metrics | None = None
    objective = None if loss is None else _Mean(loss)
    n_structures = n_atoms = 0
    with torch.no_grad(), torch.random.fork_rng(), _evaluating(predictor):
        torch.manual_seed(0)
        for batch in batches:
            outputs = predictor(batch)
            metrics = metrics or Metrics(batch.positions.device)
            metrics.update(outputs, batch)
            if objective is not None:
                objective.update(outputs, batch)
            n_structures, n_atoms = n_structures + batch.n_structures, n_atoms + batch.n_atoms
    values: dict[str, float] = {} if metrics is None else metrics.values()
    if objective is not None:
        values["objective"] = objective.value()
    return {**values, "n_structures": n_structures, "n_atoms": n_atoms}


class _Mean:
    """Mean of a configured loss over all items of all batches."""

    def __init__(self, config: LossConfig) -> None:
        from matscale.core.manager import host

        self.objective = Objective(config, host().loss)
        self.sums: dict[str, torch.Tensor] = {}
        self.counts = dict.fromkeys(self.objective.terms, 0)

    def update(self, outputs: Outputs, batch: AtomicBatch) -> None:
        for name, value in self.objective.sums(outputs, batch).items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        for name, count in self.objective.counts(batch).items():
            self.counts[name] += count

    def value(self) -> float:
        return float(self.objective.total(self.sums, self.counts))


class _evaluating:
    """Evaluation mode for a module, then the mode it had."""

    def __init__(self, predictor: Predictor) -> None:
        self.module = predictor if isinstance(predictor, nn.Module) else None

    def __enter__(self) -> None:
        if self.module is not None:
            self.was_training = self.module.training
            self.module.eval()

    def __exit__(self, *exception: Any) -> None:
        if self.module is not None:
            self.module.train(self.was_training)
