"""What a training run would take, before it is spent: parameters, FLOPs, memory, time, disk. See docs/flops.md.

FLOPs are the run's own accounting, applied to the shapes of its batches. Memory is weights, gradients, optimizer and
the activations of the largest batch. Time is timed here on a few steps, or is FLOPs over an assumed share (MFU) of the
peak of a device.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from matscale.core.architecture import Architecture, count_parameters
from matscale.core.data.batch import AtomicBatch
from matscale.core.errors import ConfigError
from matscale.core.flops import Cost, Peak, named_peak, peak_of
from matscale.core.manager import host
from matscale.core.memory import Autocast, activation_bytes, activations_of, resident_bytes
from matscale.core.potential import Potential
from matscale.core.train.compute import autocast, configured, describe, device_of
from matscale.core.train.config import BudgetConfig, OptimizerConfig, TrainConfig
from matscale.core.train.distributed import World
from matscale.core.train.outlook import Outlook
from matscale.core.train.progress import Progress
from matscale.core.train.session import cost_of_setup, probes_of_setup
from matscale.core.train.setup import Setup, prepare, resolved
from matscale.core.train.timing import Timing, timed

ASSUMED_MFU = 0.05
"""Of equivariant networks in fp32; docs/flops.md has measured ones."""
TIME_STEPS = 8
_ROW_BYTES, _NUMBER_BYTES, _HEADER_BYTES, _FILES_BYTES = 900, 23, 70, 4000
"""A row of metrics.jsonl; a predicted number in samples.jsonl; what a tensor's name, type and place take in a file
besides its name; the other files of a checkpoint, and as much again for those of the run."""

_HEAP = 1.5
"""Memory that a process takes from the system for tensors that are alive: malloc keeps and scatters what was freed.
1.3 to 1.75 in the four runs of benchmarks/estimate.py; a GPU's allocator counts what is alive."""


@dataclass(frozen=True)
class Estimate:
    """A run that has not been made. Bytes are bytes, times seconds."""

    architecture: str
    parameters: dict[str, int]
    steps: int
    epochs: float
    flops_per_step: float
    """Mean over the run."""
    flops: float
    """Training, the whole run."""
    validation_flops: float
    """All validations of the run."""
    flops_counted_by: str
    elementwise_share: float
    """Element-wise work, as a share of `flops` and not in them."""
    activation_bytes: int
    """Of the largest batch, of training or validation."""
    optimizer_bytes: int
    """Moments of AdamW and the average of the weights."""
    memory_bytes: int
    """Weights, gradients, optimizer, activations; on a CPU also the process itself."""
    device: str
    seconds: float
    """Training, validations and checkpoints; not the preparation of the data."""
    device_hours: float
    seconds_by: Literal["timed on this machine", "peak × MFU"]
    mfu: float
    """Assumed, or what the timed steps reached."""
    peak_flops_per_s: float
    peak_by: str
    disk_bytes: int
    """The run folder when it is complete."""

    def plain(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return dict(vars(self))


def estimate(
    config: TrainConfig,
    *,
    device: str | None = None,
    mfu: float | None = None,
    time_steps: int = TIME_STEPS,
    architecture: Architecture | None = None,
    progress: Progress | None = None,
) -> Estimate:
    """Estimate the run of `config` by one process.

    `device` names one of `matscale.core.flops.peaks`; without it, this machine's, as `compute.device` says. Time comes
    from `time_steps` timed steps, or, with a named device, with `mfu` or without steps, from peak × MFU (`ASSUMED_MFU`
    unless given). Beyond timed steps only a few single structures are run. Raises ConfigError for an unknown device,
    an MFU outside (0, 1], and a budget that does not pay for one step; see `prepare` for faults of the data.
    """
    if mfu is not None and not 0 < mfu <= 1:
        raise ConfigError(f"MFU {mfu:g}: a share of the peak, more than 0 and at most 1.")
    architecture = architecture or host().architecture(config.architecture.name)
    config, progress = resolved(config, architecture), progress or Progress()
    named = None if device is None else Peak(named_peak(device, config.compute.precision), "table")
    here = torch.device("cpu") if named else device_of(config.compute, World())
    with configured(config.compute, here):
        setup = prepare(_without_cache(config), architecture, progress)
        process = resident_bytes() if here.type == "cpu" and named is None else 0
        potential, outlook = setup.potential().to(here), Outlook.of(setup)
        cost, peak = cost_of_setup(setup, potential, here), named or peak_of(here, config.compute.precision)
        for complaint in cost.complaints(architecture.name):
            progress.said(complaint)
        if named is None and mfu is None and time_steps > 0:
            activations = _measured(setup, potential, outlook, cost, here)
            timing = timed(setup, copy.deepcopy(potential), cost, here, time_steps)
        else:
            activations = _extrapolated(setup, potential, outlook, here)
            mfu = ASSUMED_MFU if mfu is None else mfu
            timing = Timing(1 / (peak.flops_per_s * mfu), 1 / (peak.flops_per_s * mfu), 0.0, 0.0)
    need = _Need.of(potential, config.optimizer, activations)
    steps = _steps(config.budget, outlook, cost, timing)
    flops = outlook.flops(cost.step, steps)
    validations = outlook.validations(steps, config.evaluation.every, config.evaluation.every_epochs)
    saves = validations if config.checkpoint.every is None else -(-steps // config.checkpoint.every)
    validation = validations * outlook.validation.total(cost.prediction)
    seconds = flops * timing.seconds_per_flop + validation * timing.prediction_seconds_per_flop
    seconds += timing.warm_up_seconds + saves * timing.checkpoint_seconds
    return Estimate(
        architecture=architecture.name,
        parameters=count_parameters(potential.model),
        steps=steps,
        epochs=steps / outlook.steps_per_epoch,
        flops_per_step=flops / steps,
        flops=flops,
        validation_flops=validation,
        flops_counted_by=cost.counted_by,
        elementwise_share=cost.elementwise_share,
        activation_bytes=need.activations,
        optimizer_bytes=need.optimizer,
        memory_bytes=process + need.at_once(here.type == "cpu" and named is None),
        device=device or describe(here),
        seconds=seconds,
        device_hours=seconds / 3600,
        seconds_by="timed on this machine" if mfu is None else "peak × MFU",
        mfu=1 / (timing.seconds_per_flop * peak.flops_per_s) if mfu is None and timing.seconds_per_flop else mfu or 0.0,
        peak_flops_per_s=peak.flops_per_s,
        peak_by=peak.by,
        disk_bytes=_disk(setup, need, steps, validations, saves),
    )


def _without_cache(config: TrainConfig) -> TrainConfig:
    """Neighbour lists of a whole dataset are a cost of the run, not of its estimate."""
    return config.model_copy(update={"data": config.data.model_copy(update={"cache_graphs": False})})


def _steps(budget: BudgetConfig, outlook: Outlook, cost: Cost, timing: Timing) -> int:
    """Until the first budget is used up."""
    limits = [n for n in (budget.steps, outlook.steps_of_epochs) if n is not None]
    one = outlook.flops(cost.step, 1)
    if budget.max_flops is not None and one:
        if budget.max_flops < one:
            raise ConfigError(
                f"budget.max_flops = {budget.max_flops:g} does not pay for one step, which takes {one:.4g} FLOPs. "
                "Give more, or take smaller batches (--batch) or a smaller model (--params)."
            )
        limits.append(outlook.steps_for(cost.step, budget.max_flops))
    if budget.max_time is not None and one:
        limits.append(max(1, outlook.steps_for(cost.step, budget.max_time / timing.seconds_per_flop)))
    return min(limits)


def _measured(setup: Setup, potential: Potential, outlook: Outlook, cost: Cost, device: torch.device) -> float:
    """Bytes of activations of the dearest batch of training, or of validation if that is more."""
    loaders = (setup.training_loader(World()), setup.validation_loader(World()))
    batches = (
        loader.batch(0, sample.dearest(cost.step)).to(device)
        for loader, sample in zip(loaders, (outlook.training, outlook.validation))
    )
    half = _autocast(setup, device)
    return max(activation_bytes(potential, batch, half, training) for batch, training in zip(batches, (True, False)))


def _extrapolated(setup: Setup, potential: Potential, outlook: Outlook, device: torch.device) -> float:
    """The same from single structures, and a batch of them."""
    fitted, half = probes_of_setup(setup, device).fitted, _autocast(setup, device)
    probes = [*fitted, AtomicBatch.join(list(fitted))]
    needed = []
    for sample, training in ((outlook.training, True), (outlook.validation, False)):
        bytes_of = activations_of(potential, probes, half, training)
        needed += [bytes_of(shape) for shape in sample.shapes]
    return max(needed)


def _autocast(setup: Setup, device: torch.device) -> Autocast:
    return lambda: autocast(setup.config.compute, device)


@dataclass(frozen=True)
class _Need:
    """Bytes, by what they are for."""

    weights: int
    """With buffers."""
    state: int
    """Of the model in a checkpoint."""
    names: int
    """Headers of a file with the model's tensors."""
    gradients: int
    moments: int
    average: int
    activations: int

    @classmethod
    def of(cls, potential: Potential, optimizer: OptimizerConfig, activations: float) -> _Need:
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
        """The most that is needed at one time: in a step, or, in the memory that files are written from, in saving."""
        saving = self.gradients + self.average + (max(self.moments, self.state) if on_cpu else 0)
        return self.weights + self.optimizer + int(max(self.activations * (_HEAP if on_cpu else 1), saving))

    @property
    def checkpoint(self) -> int:
        models = 2 if self.average else 1
        return models * (self.state + self.names) + self.moments + 3 * self.names + _FILES_BYTES


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def _disk(setup: Setup, need: _Need, steps: int, validations: int, saves: int) -> int:
    """Checkpoints that are kept, rows, samples."""
    config = setup.config
    rows = (steps // config.log_every + validations) * _ROW_BYTES
    n_atoms = float(setup.dataset.n_atoms[setup.validation].mean()) if len(setup.validation) else 0.0
    samples = validations * min(config.evaluation.samples, len(setup.validation)) * (3 * n_atoms + 10) * _NUMBER_BYTES
    return int(min(saves, config.checkpoint.keep + 1) * need.checkpoint + rows + samples) + _FILES_BYTES
