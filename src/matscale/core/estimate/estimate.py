"""Estimate of a training run before it is started: parameters, FLOPs, memory, time, disk. See docs/flops.md.

FLOPs are counted as in the run, for the shapes of its batches. Memory is the sum of weights, gradients, optimizer state
and the activations of the largest batch. Time comes from a few timed steps, or from FLOPs divided by an assumed share
(MFU) of the peak FLOP/s of a device.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch

from matscale.core.errors import ConfigError
from matscale.core.estimate.live_bytes import resident_bytes
from matscale.core.estimate.memory_need import MemoryNeed, disk_bytes, extrapolated_activations, measured_activations
from matscale.core.estimate.timing import Timing, timed
from matscale.core.estimate.workload import TrainingForecast
from matscale.core.flops import Cost, Peak, named_peak, peak_of
from matscale.core.hosting.host import host
from matscale.core.model.architecture import Architecture, count_parameters
from matscale.core.progress import SILENT, Reporter
from matscale.core.runs.config import BudgetConfig, TrainConfig
from matscale.core.train.compute import configured, describe, device_of
from matscale.core.train.processes.world import World
from matscale.core.train.session import cost_of_setup
from matscale.core.train.setup import Setup, prepare, resolved

ASSUMED_MFU = 0.05
"""Assumed MFU of equivariant networks in fp32; docs/flops.md has measured ones."""
TIME_STEPS = 8


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of a run. Memory and disk are in bytes, times in seconds."""

    architecture: str
    parameters: dict[str, int]
    steps: int
    epochs: float
    flops_per_step: float
    """Mean FLOPs of a step over the run."""
    flops: float
    """FLOPs of training, over the whole run."""
    validation_flops: float
    """FLOPs of all validations of the run."""
    flops_counted_by: str
    elementwise_share: float
    """Number of element-wise operations divided by `flops`, which do not include them."""
    activation_bytes: int
    """Activations of the largest batch, of training or validation."""
    optimizer_bytes: int
    """Moments of AdamW and the moving average of the weights."""
    memory_bytes: int
    """Sum of weights, gradients, optimizer and activations; on a CPU also the process itself."""
    device: str
    seconds: float
    """Time of training, validations and checkpoints, without the preparation of the data."""
    device_hours: float
    seconds_by: Literal["timed on this machine", "peak × MFU"]
    mfu: float
    """Model FLOPs utilisation, assumed or reached by the timed steps."""
    peak_flops_per_s: float
    peak_by: str
    disk_bytes: int
    """Size of the run folder when the run is complete."""

    def plain(self) -> dict[str, Any]:
        """Estimate as JSON-ready values."""
        return dict(vars(self))


def estimate(
    config: TrainConfig,
    *,
    device: str | None = None,
    mfu: float | None = None,
    time_steps: int = TIME_STEPS,
    architecture: Architecture | None = None,
    progress: Reporter = SILENT,
) -> Estimate:
    """Estimate time, memory and FLOPs of training `config` with one process.

    `device` names a device in the table of `matscale.core.flops.peaks`; the default is the device of this machine that
    `compute.device` chooses. Time comes from `time_steps` timed steps; with a named device, with `mfu` or with 0 steps,
    it comes from peak × MFU (`ASSUMED_MFU` unless given). Apart from the timed steps, only a few structures are run.
    Raises ConfigError for an unknown device, an MFU outside (0, 1], and a budget of less than one step; see `prepare`
    for errors of the data.
    """
    if mfu is not None and not 0 < mfu <= 1:
        raise ConfigError(f"MFU {mfu:g}: must be a share of the peak, above 0 and at most 1.")
    architecture = architecture or host().architecture(config.architecture.name)
    setup, forecast = foresee(config, architecture, progress)
    return price(setup, forecast, device=device, mfu=mfu, time_steps=time_steps, progress=progress).of(setup, forecast)


def foresee(
    config: TrainConfig, architecture: Architecture, progress: Reporter = SILENT
) -> tuple[Setup, TrainingForecast]:
    """Prepare the data of a run and forecast its batches, without running a model. See `prepare` for the errors."""
    setup = prepare(without_cache(resolved(config, architecture)), architecture, progress)
    return setup, TrainingForecast.of(setup)


@dataclass(frozen=True)
class Price:
    """Cost of a step, a validation and a checkpoint, the same for runs that differ only in length, data and seed."""

    architecture: str
    parameters: dict[str, int]
    cost: Cost
    timing: Timing
    need: MemoryNeed
    memory_bytes: int
    device: str
    peak: Peak
    assumed_mfu: float | None
    """Share of the peak from which times were computed; None if steps were timed."""

    def of(self, setup: Setup, forecast: TrainingForecast) -> Estimate:
        """Estimate one run from these costs. Raises ConfigError if its budget is less than one step."""
        config, timing = setup.config, self.timing
        steps = _steps(config.budget, forecast, self.cost, timing)
        flops = forecast.flops(self.cost.step, steps)
        validations = forecast.validations(steps, config.evaluation.every, config.evaluation.every_epochs)
        saves = validations if config.checkpoint.every is None else -(-steps // config.checkpoint.every)
        validation = validations * forecast.validation.total(self.cost.prediction)
        seconds = flops * timing.seconds_per_flop + validation * timing.prediction_seconds_per_flop
        seconds += timing.warm_up_seconds + saves * timing.checkpoint_seconds
        return Estimate(
            architecture=self.architecture,
            parameters=self.parameters,
            steps=steps,
            epochs=steps / forecast.steps_per_epoch,
            flops_per_step=flops / steps,
            flops=flops,
            validation_flops=validation,
            flops_counted_by=self.cost.counted_by,
            elementwise_share=self.cost.elementwise_share,
            activation_bytes=self.need.activations,
            optimizer_bytes=self.need.optimizer,
            memory_bytes=self.memory_bytes,
            device=self.device,
            seconds=seconds,
            device_hours=seconds / 3600,
            seconds_by="timed on this machine" if self.assumed_mfu is None else "peak × MFU",
            mfu=self._mfu,
            peak_flops_per_s=self.peak.flops_per_s,
            peak_by=self.peak.by,
            disk_bytes=disk_bytes(setup, self.need, steps, validations, saves),
        )

    @property
    def _mfu(self) -> float:
        if self.assumed_mfu is not None:
            return self.assumed_mfu
        per_flop = self.timing.seconds_per_flop
        return 1 / (per_flop * self.peak.flops_per_s) if per_flop else 0.0


def price(
    setup: Setup,
    forecast: TrainingForecast,
    *,
    device: str | None = None,
    mfu: float | None = None,
    time_steps: int = TIME_STEPS,
    progress: Reporter = SILENT,
) -> Price:
    """Measure the cost of the steps of a run: FLOPs, memory and time. The options are those of `estimate`."""
    if mfu is not None and not 0 < mfu <= 1:
        raise ConfigError(f"MFU {mfu:g}: must be a share of the peak, above 0 and at most 1.")
    config, architecture = setup.config, setup.architecture
    named = None if device is None else Peak(named_peak(device, config.compute.precision), "table")
    here = torch.device("cpu") if named else device_of(config.compute, World())
    on_cpu = here.type == "cpu" and named is None
    with configured(config.compute, here):
        process = resident_bytes() if on_cpu else 0
        potential = setup.potential().to(here)
        cost, peak = cost_of_setup(setup, potential, here), named or peak_of(here, config.compute.precision)
        for complaint in cost.complaints(architecture.name):
            progress.said(complaint)
        if named is None and mfu is None and time_steps > 0:
            activations = measured_activations(setup, potential, forecast, cost, here)
            timing = timed(setup, copy.deepcopy(potential), cost, here, time_steps)
        else:
            activations = extrapolated_activations(setup, potential, forecast, here)
            mfu = ASSUMED_MFU if mfu is None else mfu
            timing = Timing(1 / (peak.flops_per_s * mfu), 1 / (peak.flops_per_s * mfu), 0.0, 0.0)
        need = MemoryNeed.of(potential, config.optimizer, activations)
        return Price(
            architecture=architecture.name,
            parameters=count_parameters(potential.model),
            cost=cost,
            timing=timing,
            need=need,
            memory_bytes=process + need.at_once(on_cpu),
            device=device or describe(here),
            peak=peak,
            assumed_mfu=mfu,
        )


def without_cache(config: TrainConfig) -> TrainConfig:
    """Configuration without the graph cache, since an estimate should not search a whole dataset for neighbours."""
    return config.model_copy(update={"data": config.data.model_copy(update={"cache_graphs": False})})


def _steps(budget: BudgetConfig, forecast: TrainingForecast, cost: Cost, timing: Timing) -> int:
    """Number of steps until the first limit of the budget is reached."""
    limits = [n for n in (budget.steps, forecast.steps_of_epochs) if n is not None]
    one = forecast.flops(cost.step, 1)
    if budget.max_flops is not None and one:
        if budget.max_flops < one:
            raise ConfigError(
                f"budget.max_flops = {budget.max_flops:g} is too small for one step, which takes {one:.4g} FLOPs. "
                "Raise it, or use smaller batches (--batch) or a smaller model (--params)."
            )
        limits.append(forecast.steps_for(cost.step, budget.max_flops))
    if budget.max_time is not None and one:
        limits.append(max(1, forecast.steps_for(cost.step, budget.max_time / timing.seconds_per_flop)))
    if not limits:
        raise ConfigError(
            "The model has no contractions (matrix products), so its FLOPs do not tell how many steps fit the budget. "
            "Give the length of the run with --steps or --epochs."
        )
    return min(limits)
