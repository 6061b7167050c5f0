"""Memory and disk space that a run needs, in bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from matscale.core.data.batch import AtomicBatch
from matscale.core.estimate.live_bytes import Autocast, activation_bytes, activations_of
from matscale.core.estimate.workload import TrainingForecast
from matscale.core.flops import Cost
from matscale.core.model.potential import Potential
from matscale.core.runs.config import OptimizerConfig
from matscale.core.train.compute import autocast
from matscale.core.train.session import probes_of_setup
from matscale.core.train.setup import Setup

_ROW_BYTES, _NUMBER_BYTES, _HEADER_BYTES, _FILES_BYTES = 900, 23, 70, 4000
"""Bytes of one row of metrics.jsonl, one number in samples.jsonl, one header entry, and all further files.

A header entry describes a tensor in a file; its name is counted separately. The further files are counted once for each
checkpoint and once for the run.
"""

_HEAP = 1.5
"""Ratio of the memory that a process takes from the system to the memory of its tensors, on a CPU.

It is above 1 because malloc keeps freed blocks: 1.3 to 1.75 in the four runs of benchmarks/estimate.py.
"""


def measured_activations(
    setup: Setup, potential: Potential, forecast: TrainingForecast, cost: Cost, device: torch.device
) -> float:
    """Bytes of activations of the most expensive batch of training, or of validation if that needs more."""
    loaders = (setup.training_loader(), setup.validation_loader())
    batches = (
        loader.batch(0, sample.dearest(cost.step)).to(device)
        for loader, sample in zip(loaders, (forecast.training, forecast.validation))
    )
    half = _autocast(setup, device)
    return max(activation_bytes(potential, batch, half, training) for batch, training in zip(batches, (True, False)))


def extrapolated_activations(
    setup: Setup, potential: Potential, forecast: TrainingForecast, device: torch.device
) -> float:
    """Bytes of activations of the largest batch, extrapolated from single structures and one batch of several."""
    fitted, half = probes_of_setup(setup, device).fitted, _autocast(setup, device)
    probes = [*fitted, AtomicBatch.join(list(fitted))]
    needed = []
    for sample, training in ((forecast.training, True), (forecast.validation, False)):
        bytes_of = activations_of(potential, probes, half, training)
        needed += [bytes_of(shape) for shape in sample.shapes]
    return max(needed)


def _autocast(setup: Setup, device: torch.device) -> Autocast:
    return lambda: autocast(setup.config.compute, device)


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of memory that a run needs for weights, gradients, optimizer and activations."""

    weights: int
    """Bytes of the model's parameters and buffers."""
    state: int
    """Bytes of the model's tensors in a checkpoint."""
    names: int
    """Bytes of the headers of a file with the model's tensors."""
    gradients: int
    moments: int
    average: int
    activations: int

    @classmethod
    def of(cls, potential: Potential, optimizer: OptimizerConfig, activations: float) -> MemoryNeed:
        trained = _bytes(p for p in potential.parameters() if p.requires_grad)
        return cls(
            weights=_bytes(potential.parameters()) + _bytes(potential.buffers()),
            state=_bytes(potential.state_dict().values()),
            names=sum(len(name) + _HEADER_BYTES for name in potential.state_dict()),
            gradients=trained,
            moments=2 * trained,
            average=_bytes(potential.parameters()) if optimizer.ema else 0,
            activations=int(activations),
        )

    @property
    def optimizer(self) -> int:
        return self.moments + self.average

    def at_once(self, on_cpu: bool) -> int:
        """Peak memory [bytes] of a step; on a CPU, the copy of a checkpoint that is being written is in it."""
        copied = self.state * (2 if self.average else 1) + self.moments if on_cpu else 0
        step = max(self.activations * (_HEAP if on_cpu else 1), self.gradients)
        return self.weights + self.optimizer + copied + int(step)

    @property
    def checkpoint(self) -> int:
        models = 2 if self.average else 1
        return models * (self.state + self.names) + self.moments + 3 * self.names + _FILES_BYTES


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def disk_bytes(setup: Setup, need: MemoryNeed, steps: int, validations: int, saves: int) -> int:
    """Disk space [bytes] of a run: its checkpoints, rows of metrics, and samples."""
    config = setup.config
    rows = (steps // config.log_every + validations) * _ROW_BYTES
    n_atoms = float(setup.dataset.n_atoms[setup.validation].mean()) if len(setup.validation) else 0.0
    samples = validations * min(config.evaluation.samples, len(setup.validation)) * (3 * n_atoms + 10) * _NUMBER_BYTES
    return int(min(saves, config.checkpoint.keep + 1) * need.checkpoint + rows + samples) + _FILES_BYTES
