"""A training step of every architecture on a pretended GPU: its numbers, and how often it waits for the GPU."""

from __future__ import annotations

import pytest
import torch
from test_pretended_gpu import settings, takes_pretended_weights

from matscale.core.data.store.packed import PackedDataset
from matscale.core.hosting.host import host
from matscale.core.train.learner import Learner
from matscale.core.train.optimizer.accumulation import Accumulation
from matscale.core.train.origin.source import prepare_model
from matscale.core.train.processes.world import World
from matscale.core.train.running_metrics import RunningMetrics
from matscale.core.train.setup import Setup, prepare, resolved
from pretended import pretended_gpu

CORE = 10
"""Waits of the core in every step: labels that are selected in loss and metrics, the objective and the norm."""
MODEL = {
    "fcn": 0,
    "transformer": 1,
    "transformer-periodic": 3,
    "schnet": 5,
    "eqv2": 7,
    "esen": 2,
    "eqv3": 2,
    "gemnet": 10,
    "escaip": 6,
}
"""Waits of each model in its forward and backward pass: numbers of neighbours, pairs, triplets and slots."""


def step(setup: Setup, device: torch.device, waits: dict[str, int]) -> tuple[float, float, list[list[float]]]:
    """Objective, norm of the gradient, and sums of errors of the first step; `waits` has those of the step alone."""
    objective, potential = setup.objective(), setup.potential().to(device)
    prepare_model(potential, setup, device)
    learner = Learner(potential, setup.config, objective, device, World())
    group = next(Accumulation(setup.training_loader(), 1, device, objective).groups(0, 0))
    waits.clear()
    torch.manual_seed(0)
    gradient = learner.gradient(group.batches, group.labelled)
    learner.update(gradient, 1e-3, 1)
    metrics = RunningMetrics(objective.metrics(device))
    metrics.learned(gradient, 1e-3)
    seen = dict(waits)
    found = gradient.objective, gradient.norm, metrics.metrics.state()
    waits.clear()
    waits.update(seen)
    return found


@pytest.mark.parametrize(
    "name", [a.name for a in host().architectures() if a.config.__module__.startswith("matscale.")]
)
def test_a_step_has_the_numbers_of_the_cpu_and_waits_no_more_often_than_the_table_says(
    alloys: PackedDataset, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    takes_pretended_weights(monkeypatch)
    architecture = host().architecture(name)
    setup = prepare(resolved(settings(alloys, name, "cuda", 1), architecture), architecture)
    expected = step(setup, torch.device("cpu"), {})
    with pretended_gpu() as waits:
        found = step(setup, torch.device("cuda", 0), waits)
    assert found[:2] == pytest.approx(expected[:2], rel=1e-5)
    for row, other in zip(found[2], expected[2], strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-9)
    core = {place: n for place, n in waits.items() if place.startswith("matscale/core/train/")}
    model = {place: n for place, n in waits.items() if place not in core}
    assert sum(core.values()) <= CORE, core
    assert sum(model.values()) <= MODEL[name], model
