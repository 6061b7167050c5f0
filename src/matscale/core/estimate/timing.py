"""Time a few training steps, a validation batch and a checkpoint, in the same way as the trainer runs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from matscale.core.files import scratch
from matscale.core.flops import Cost
from matscale.core.model.potential import Potential
from matscale.core.runs import checkpoint
from matscale.core.train.compute import configured
from matscale.core.train.evaluation import tally
from matscale.core.train.learner import Learner
from matscale.core.train.loss import Objective
from matscale.core.train.optimizer.accumulation import Accumulation, StepBatches
from matscale.core.train.processes.world import World
from matscale.core.train.setup import Setup

WARM_UP = 2
"""Number of first steps that are timed separately, since they allocate memory and choose kernels."""
LEAST_SECONDS, MOST = 1.0, 8
"""Least total time [s] of timed steps, and the largest factor by which their number is raised to reach it."""


@dataclass(frozen=True)
class Timing:
    """Times measured on this machine."""

    seconds_per_flop: float
    """Seconds per FLOP of training steps, waiting for data included."""
    prediction_seconds_per_flop: float
    """Seconds per FLOP of validation."""
    warm_up_seconds: float
    """Additional time of the first steps, compared with later ones."""
    checkpoint_seconds: float


def timed(setup: Setup, potential: Potential, cost: Cost, device: torch.device, steps: int) -> Timing:
    """Time `steps` training steps, or more if they are short, on batches spread over an epoch."""
    objective = setup.objective()
    with configured(setup.config.compute, device):
        learner = Learner(potential, setup.config, objective, device, World())
        seconds, flops = list[float](), list[float]()
        for group, spent in timed_steps(learner, _groups(setup, device, objective, WARM_UP + MOST * steps), steps):
            seconds.append(group.waited + spent)
            flops.append(sum(cost.step(shape) for shape in group.shapes))
        rate = sum(seconds[WARM_UP:]) / max(sum(flops[WARM_UP:]), 1.0)
        warm_up = max(sum(seconds[:WARM_UP]) - rate * sum(flops[:WARM_UP]), 0.0)
        return Timing(rate, _validation(setup, learner, cost, device), warm_up, _checkpoint(learner))


def _groups(setup: Setup, device: torch.device, objective: Objective, n: int) -> Iterator[StepBatches]:
    loader = setup.training_loader()
    accumulation = Accumulation(loader, setup.config.batch.accumulate, device, objective)
    last = max(loader.n_batches(0) - setup.config.batch.accumulate, 0)
    places = np.linspace(0, last, n).astype(int)
    for place in np.random.default_rng(0).permutation(places):  # the iterator may stop in the middle
        yield next(accumulation.groups(0, int(place)))


def timed_steps(learner: Learner, groups: Iterable[StepBatches], steps: int) -> Iterator[tuple[StepBatches, float]]:
    """Make training steps and yield the batches of each step with its time [s].

    There are `WARM_UP` first steps, then `steps` more, or as many as fill `LEAST_SECONDS`; `groups` limits them.
    """
    total = 0.0
    for k, group in enumerate(groups):
        if k >= WARM_UP + steps and total > LEAST_SECONDS:
            return
        seconds = seconds_of(partial(_step, learner, group, k), learner.device)
        total += seconds if k >= WARM_UP else 0.0
        yield group, seconds


def _step(learner: Learner, group: StepBatches, k: int) -> None:
    counts = {name: max(count, 1.0) for name, count in group.labelled.items()}
    gradient = learner.gradient(group.batches, counts)
    metrics = learner.objective.metrics(learner.device)
    for outputs, batch in gradient.seen:
        metrics.update(outputs, batch)
    learner.update(gradient, learner.config.optimizer.lr * 1e-3, k + 1)


def _validation(setup: Setup, learner: Learner, cost: Cost, device: torch.device) -> float:
    """Seconds per FLOP of validation, from up to three batches; the first is not timed if there are more."""
    loader, flops = setup.validation_loader(), list[float]()
    with learner.evaluating() as predictor:

        def validate(k: int) -> None:
            batch = loader.batch(0, k)
            flops.append(cost.prediction(batch.shape))
            tally(predictor, iter([batch.to(device)]), learner.objective)

        spent = [seconds_of(partial(validate, k), device) for k in range(min(3, loader.n_batches(0)))]
    first = 1 if len(spent) > 1 else 0
    return sum(spent[first:]) / sum(flops[first:]) if sum(flops[first:]) else 0.0


def _checkpoint(learner: Learner) -> float:
    """Seconds for writing a checkpoint. The second one is timed, since the first also loads the code."""
    with scratch("timing") as folder:
        for step in (1, 2):
            began = time.perf_counter()
            checkpoint.save(folder, learner.checkpoint(step, {}))
        return time.perf_counter() - began


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Time of `work` [s], until the device has done it."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
