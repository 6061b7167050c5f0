"""Fixtures that several parts share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from crystals import random_structures
from little import Site

if TYPE_CHECKING:
    from matscale.core.data.store.packed import PackedDataset
    from matscale.core.data.structure import Structure
    from matscale.core.runs.record import Run
    from matscale.plugins.launchers.fork_server import ForkServer

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the tests marked `long` unless the environment asks for them."""
    if os.environ.get("MATSCALE_TEST_LONG") != "1":
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes long: MATSCALE_TEST_LONG=1 has it tried"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """One, or as many as MATSCALE_TEST_THREADS says."""
    torch.set_num_threads(int(os.environ.get("MATSCALE_TEST_THREADS", "1")))


@pytest.fixture(autouse=True, scope="session")
def _quick_beginnings() -> Iterator[None]:
    """Runs and estimates in this process share counts of FLOPs and the measured peak; tests/core/flops has them anew.

    What is written is not flushed to the disk: that is felt when the power fails, and waited for hundreds of times.
    """
    from costs import cost_once, peak_once

    with pytest.MonkeyPatch.context() as patch:
        for module in ("matscale.core.train.session", "matscale.core.estimate.estimate"):
            patch.setattr(f"{module}.cost_of_setup", cost_once)
            patch.setattr(f"{module}.peak_of", peak_once)
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_fork_server() -> Iterator[None]:
    """Sweeps in this process start their runs from one fork server, which stays warm from test to test."""
    from studies import Lent

    kept: dict[str, ForkServer] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matscale.plugins.launchers.local.ForkServer", partial(Lent, kept))
        yield
    for server in kept.values():
        server.close()


@pytest.fixture(autouse=True, scope="session")
def _one_unpickler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Checkpoints of fairchem are read by forks of one process; test_importers.py has one read as a user does."""
    from unpickler import Unpickler

    unpickler = Unpickler(tmp_path_factory.mktemp("unpickler"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matscale.core.fairchem.checkpoint.subprocess", unpickler)
        yield
    unpickler.close()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def structures() -> Callable[..., list[Structure]]:
    """structures(n, seed=0): random periodic structures of 1 to 12 atoms with all three labels."""
    return random_structures


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty folder like `site-packages`, on the path, to install little plugins into."""
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(str(folder))
    yield Site(folder)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference material that lies beside the checkout: first-principles data, golden outputs of other programs."""
    if not SHARED.is_dir():
        pytest.skip("no folder `shared` beside the checkout: comparisons with outside material are left out")
    return SHARED


@pytest.fixture(scope="session")
def alloys(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    """24 rattled and strained cells of Al, Cu and Ni with 2 atoms each, labelled by ASE's EMT."""
    from matscale.core.data.store.packed import PackedDataset
    from matscale.core.data.store.writer import ShardWriter

    path = tmp_path_factory.mktemp("data") / "alloys"
    writer, rng = ShardWriter(path, labels_by="surrogate: emt"), np.random.default_rng(1)
    for k in range(24):
        writer.append(_alloy(["AlCu", "Al2", "CuNi", "Ni2", "AlNi", "Cu2"][k % 6], rng))
    writer.finish()
    return PackedDataset.open(path)


def _alloy(formula: str, rng: np.random.Generator) -> Structure:
    from ase import Atoms
    from ase.calculators.emt import EMT

    from matscale.core.data.structure import Structure, voigt_to_full

    cell = 3.0 * (np.eye(3) + 0.05 * rng.standard_normal((3, 3)))
    atoms = Atoms(formula, scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=cell, pbc=True, calculator=EMT())
    atoms.rattle(0.1, rng=rng)
    structure = Structure.from_ase(atoms)
    structure.energy, structure.forces = atoms.get_potential_energy(), atoms.get_forces()
    structure.stress = voigt_to_full(atoms.get_stress())
    return structure


@pytest.fixture
def make_run(alloys: PackedDataset, tmp_path: Path) -> Callable[..., Run]:
    """A run folder as training on `alloys` leaves it, with random weights: make_run("schnet", hidden=8)."""
    return lambda architecture="schnet", **options: _run(tmp_path, alloys, architecture, **options)


def _run(
    folder: Path,
    dataset: PackedDataset,
    architecture: str,
    *,
    name: str = "run",
    steps: tuple[int, ...] = (1,),
    ema: bool = False,
    training: dict[str, Any] | None = None,
    **config: Any,
) -> Run:
    from matscale.core.data.references import fit_references
    from matscale.core.data.split import split
    from matscale.core.hosting.host import host
    from matscale.core.model.architecture import DatasetInfo
    from matscale.core.model.potential import Potential, Scales
    from matscale.core.runs import checkpoint
    from matscale.core.runs.config import TrainConfig
    from matscale.core.runs.record import Run

    chosen = {"name": architecture, "config": config}
    data = {"path": str(dataset.path), "validation": 0.25}
    given = {"architecture": chosen, **(training or {})}
    run = Run.create(folder / name, TrainConfig.parse({**given, "data": {**data, **given.get("data", {})}}))
    family = host().architecture(architecture)
    info = DatasetInfo(elements=(13, 28, 29), mean_atoms=2.0, mean_degree=30.0)
    train = split(dataset, 0.25, run.config.seed).train
    references = torch.from_numpy(fit_references(dataset, train).values)
    run.update(
        {
            "architecture": dict(
                zip(("name", "distribution", "version"), (architecture, *host().origin(architecture)))
            ),
            "dataset": {"path": str(dataset.path), "hash": dataset.hash},
            "dataset_info": info.plain(),
        }
    )

    def state(seed: int) -> dict[str, torch.Tensor]:
        scales = Scales(energy=100.0, forces=0.5, stress=0.1)
        return Potential.of(family, family.config.parse(config), info, seed, references, scales).state_dict()

    for step in steps:
        saved = checkpoint.Checkpoint(step, state(step), state(step + 1000) if ema else None, {}, {})
        checkpoint.save(run.checkpoint_folder, saved)
    return run
