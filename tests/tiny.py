"""A dataset and two architectures small enough to train in a blink, also in a process that a test may kill."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from forks import FORKS
from matscale.core.config import override
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate
from matscale.core.data.store.packed import PackedDataset, ShardWriter
from matscale.core.data.structure import Structure
from matscale.core.errors import MatscaleError
from matscale.core.model.architecture import Architecture, ArchitectureConfig, DatasetInfo
from matscale.core.model.outputs import Outputs, strained
from matscale.core.progress import Reporter, StepStatus
from matscale.core.runs.config import TrainConfig
from matscale.core.train.session import train
from matscale.core.train.setup import Setup, prepare, resolved


class TinyConfig(ArchitectureConfig):
    width: int = 8
    """Channels."""
    dropout: float = 0.0
    """Share of channels that is dropped in training."""
    poison: int = 0
    """Atomic number whose atoms make the energy infinite; 0: none."""


class Springs(nn.Module):
    """A learned pair potential with gradient forces."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.element = nn.Embedding(119, config.width)
        self.radial = nn.Linear(6, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.readout = nn.Linear(config.width, 1)

    def forward(self, batch: AtomicBatch) -> Outputs:
        j, i = batch.edges()
        d = batch.edge_distance()
        basis = torch.exp(-((d[:, None] - torch.linspace(1, 4, 6).to(d)) ** 2)) * torch.relu(1 - d / 4)[:, None] ** 2
        z = self.element(batch.atomic_numbers)
        pair = self.radial(basis) * z[i] * z[j]
        per_atom = pair.new_zeros(batch.n_atoms, self.config.width).index_add(0, i, pair)
        energy = self.readout(self.dropout(torch.tanh(self.norm(per_atom) * per_atom.norm(dim=1, keepdim=True))))[:, 0]
        if self.config.poison:
            energy = torch.where(batch.atomic_numbers == self.config.poison, torch.inf, energy)
        return Outputs(energy=energy.new_zeros(batch.n_structures).index_add(0, batch.batch, energy))


class Columns(nn.Module):
    """Direct predictions from position and element alone."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.element = nn.Embedding(119, config.width)
        self.inner = nn.Sequential(nn.Linear(config.width + 3, config.width), nn.Tanh(), nn.Dropout(config.dropout))
        self.heads = nn.Linear(config.width, 10)

    def forward(self, batch: AtomicBatch) -> Outputs:
        x = self.heads(self.inner(torch.cat([self.element(batch.atomic_numbers), batch.positions], dim=1)))
        pooled = x.new_zeros(batch.n_structures, 10).index_add(0, batch.batch, x)
        stress = (pooled[:, 4:] / batch.atoms_per_structure[:, None])[:, [0, 5, 4, 5, 1, 3, 4, 3, 2]]
        return Outputs(energy=pooled[:, 0], forces=x[:, 1:4], stress=stress.view(-1, 3, 3))


def architecture(name: str = "springs") -> Architecture:
    model = {"springs": Springs, "columns": Columns}[name]

    def build(config: TinyConfig, info: DatasetInfo) -> nn.Module:
        return model(config)

    gradient = name == "springs"
    return Architecture(
        name=name,
        summary="for tests",
        reference="none",
        config=TinyConfig,
        build=build,
        ladder=lambda n_params: TinyConfig(width=max(1, n_params // 130)),
        dial="channels",
        forces="gradient" if gradient else "direct",
        graph=lambda config: Graph.radius(4.0) if gradient else Graph.none(),
        compiles=not gradient,
    )


def make_dataset(path: Path, n: int = 40, seed: int = 0, stress: bool = True) -> PackedDataset:
    """Crystals of two elements, held together by springs: labels that a pair potential can learn."""
    rng = np.random.default_rng(seed)
    writer = ShardWriter(path)
    for k in range(n):
        size = int(rng.integers(1, 5))
        numbers = rng.choice([29, 79], size)
        cell = np.eye(3) * rng.uniform(2.8, 3.4) * np.ceil(size ** (1 / 3)) + rng.normal(0, 0.05, (3, 3))
        sites = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3)[:size]
        positions = (sites / np.ceil(size ** (1 / 3)) + rng.normal(0, 0.02, (size, 3))) @ cell
        s = Structure(numbers, positions, cell, np.ones(3, bool), trajectory=f"t{k // 2}")
        s.energy, s.forces, s.stress = _springs(s)
        if not stress:
            s.stress = None
        writer.append(s)
    writer.finish()
    return PackedDataset.open(path)


def _springs(s: Structure) -> tuple[float, np.ndarray, np.ndarray]:
    batch = collate([s], Graph.radius(4.0), torch.float64)
    positions, strain = batch.positions.requires_grad_(), torch.zeros(1, 3, 3, dtype=torch.float64, requires_grad=True)
    d: Tensor = strained(batch, strain).edge_distance()
    pairs = ((d - 2.9) ** 2 * (1 - d / 4) ** 2).sum()
    weights = torch.tensor([0.0 if z == 29 else 0.3 for z in s.atomic_numbers], dtype=torch.float64).sum()
    energy = pairs - 3.0 * len(s) - weights
    dr, de = torch.autograd.grad(pairs, (positions, strain))
    volume = float(batch.volume()[0])
    return float(energy.detach()), -dr.numpy(), (0.5 * (de + de.transpose(1, 2)) / volume)[0].detach().numpy()


def configured(data: Path, *assignments: str, name: str = "springs") -> TrainConfig:
    """A run of 20 steps in float64 with everything on that resuming could break."""
    values = {
        "architecture": {"name": name, "config": {"dropout": 0.2}},
        "data": {"path": str(data), "validation": 0.2},
        "batch": {"structures": 4},
        "augmentation": {"rotate": True},
        "budget": {"steps": 20},
        "compute": {"precision": "fp64", "device": "cpu"},
        "checkpoint": {"every": 3},
        "log_every": 2,
    }
    return TrainConfig.parse(override(values, assignments))


def prepared(data: Path, *assignments: str, name: str = "springs") -> Setup:
    return prepare(resolved(configured(data, *assignments, name=name), architecture(name)), architecture(name))


class StopAt(Reporter):
    """Sends this process a signal after a step."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number

    def stepped(self, status: StepStatus) -> None:
        if status.step == self.step:
            os.kill(os.getpid(), self.number)


def begin(
    folder: Path,
    data: Path,
    *assignments: str,
    said: Path | None = None,
    resume: bool = False,
    stop: int | None = None,
    **environment: str,
) -> BaseProcess:
    """Train in a process of its own; what it says goes to the file `said`. It is asked to stop after step `stop`."""
    process = FORKS.Process(target=_train, args=(folder, data, assignments, said, resume, stop, environment))
    process.start()
    return process


def _train(
    folder: Path,
    data: Path,
    changes: Sequence[str],
    said: Path | None,
    resume: bool,
    stop: int | None,
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    if said is not None:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    config = configured(data, *changes)
    try:
        progress = None if stop is None else StopAt(stop)
        made = architecture(config.architecture.name)
        train(config, folder, resume=resume, architecture=made, progress=progress)
    except MatscaleError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
