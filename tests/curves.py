"""Losses of some steps of training by several processes that share the work, without a run folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

import tiny
from forks import FORKS
from matscale.core.data.batch import AtomicBatch
from matscale.core.hosting.host import host
from matscale.core.model.outputs import Outputs
from matscale.core.train.learner import Learner
from matscale.core.train.optimizer.accumulation import Accumulation
from matscale.core.train.processes.sharding import whole
from matscale.core.train.processes.world import World
from matscale.core.train.setup import prepare, resolved

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A configuration of training, by its changes to `tiny.configured`."""

    data: str
    changes: tuple[str, ...] = ()
    name: str = "springs"
    steps: int = 20
    unused: bool = False
    """Whether the model has a parameter that one structure uses, and one that none does."""
    backend: str = ""
    """Backend of torch.compile; the model is not compiled if empty."""


class Shifted(nn.Module):
    """A model whose parameter `rare` acts on one structure alone, and `idle` on none."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rare, self.idle = (nn.Parameter(torch.ones((), dtype=torch.float64)) for _ in range(2))

    def forward(self, batch: AtomicBatch) -> Outputs:
        outputs = self.model(batch)
        own = batch.index == 3
        return replace(outputs, energy=outputs.energy * torch.where(own, self.rare, 1.0)) if own.any() else outputs


def curve(case: Case, world: World) -> dict[str, list[float]]:
    """Objective and norm of the gradient of each step, and the weights after the last."""
    found = tiny.architecture(case.name) if case.name in ("springs", "columns") else host().architecture(case.name)
    config = tiny.configured(Path(case.data), "architecture.config={}", *case.changes, name=case.name)
    setup = prepare(resolved(config, found), found)
    potential = setup.potential()
    if case.unused:
        potential.model = Shifted(potential.model)
    if case.backend:
        potential.model.compile(dynamic=True, backend=case.backend)
    learner = Learner(potential, setup.config, setup.objective(), CPU, world)
    accumulation = Accumulation(setup.training_loader(), config.batch.accumulate, CPU, learner.objective, world)
    losses, norms = [], []
    for step, group in zip(range(1, case.steps + 1), accumulation.groups(0, 0)):
        gradient = learner.gradient(group.batches, world.sums(group.labelled))
        learner.update(gradient, 1e-2, step)
        losses.append(gradient.objective)
        norms.append(gradient.norm)
    weights = [float(whole(p.detach()).double().square().sum()) for p in learner.potential.parameters()]
    without = [name for name, p in learner.potential.named_parameters() if p not in learner.optimizer.state]
    return {"loss": losses, "norm": norms, "weights": weights, "without": without}  # type: ignore[dict-item]


def on_processes(size: int, cases: Sequence[Case], folder: Path) -> list[dict[str, list[float]]]:
    """Curves of the first of `size` processes; each of them trains all cases."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    started = [FORKS.Process(target=_train, args=(rank, size, port, cases, folder)) for rank in range(size)]
    for process in started:
        process.start()
    for process in started:
        process.join(240)
    assert [process.exitcode for process in started] == [0] * size
    return json.loads((folder / f"{size}.json").read_text())


def _train(rank: int, size: int, port: int, cases: Sequence[Case], folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    world = World(rank, size, rank)
    with world.connected(CPU, 60):
        found = [curve(case, world) for case in cases]
    if rank == 0:
        (folder / f"{size}.json").write_text(json.dumps(found))
