"""The contract that every architecture must pass, and what is special about wrapping the package mace-torch."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matscale_mace import MPTRJ, SIZES, MaceConfig, build, ladder, n_parameters, register_architectures

from matscale.plugin import (
    ConfigError,
    DataError,
    DatasetInfo,
    PluginError,
    Potential,
    Run,
    Structure,
    collate,
    count_parameters,
)
from matscale.testing import (
    PackedDataset,
    Reporter,
    ShardWriter,
    StoppedEarly,
    TrainConfig,
    checkpoint,
    checks,
    metal,
    resolved,
    structure,
    train,
    voigt_to_full,
)

(ARCHITECTURE,) = register_architectures()
SMALL = MaceConfig(channels=3, max_l=2, correlation=2, radial_width=8, readout_width=4, cutoff=4.0)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_the_installed_package_is_found_by_its_name():
    from matscale.plugin import host

    assert host().architecture("mace").config is MaceConfig
    assert host().origin("mace")[0] == "matscale-mace"


@pytest.mark.parametrize("check", checks(ARCHITECTURE, SMALL), ids=str)
def test_the_contract(check):
    check()


@pytest.mark.parametrize(
    ("size", "n_params"),
    [("mp-0-small", 3_847_696), ("mp-0-medium", 4_688_656), ("mp-0-large", 5_725_072), ("mpa-0", 9_063_204)],
)
def test_published_sizes_have_the_parameters_of_the_foundation_models(size: str, n_params: int):
    assert count_parameters(build(SIZES[size], DatasetInfo.any()))["total"] == n_params


def test_parameters_of_a_rung_are_counted_without_building():
    for config in (ladder(20_000), ladder(120_000)):
        assert n_parameters(config) == count_parameters(build(config, DatasetInfo.any()))["total"]


def test_tables_by_element_are_counted_apart():
    def counts(elements: tuple[int, ...]) -> dict[str, int]:
        return count_parameters(build(SMALL.model_copy(update={"elements": elements}), DatasetInfo.any()))

    few, more = counts((8, 14)), counts((8, 14, 29, 13))
    assert more["embedding"] == 2 * few["embedding"] > 0
    assert more["non_embedding"] == few["non_embedding"] > 0


def test_every_rung_from_15k_to_300M_is_within_five_percent_of_what_was_asked():
    wanted = np.geomspace(15_000, 3e8, 21).astype(int)
    found = np.array([n_parameters(ladder(int(n))) for n in wanted])
    assert np.abs(found / wanted - 1).max() < 0.05
    assert (np.diff(found) > 0).all()


@pytest.fixture(scope="module")
def own_process() -> dict[str, Any]:
    """JSON printed by `own_process.py`."""
    script = Path(__file__).with_name("own_process.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_first_model_leaves_the_process_as_it_was(own_process: dict[str, Any]):
    assert own_process["changed"] == []
    assert own_process["inherited"] == []


def test_pickles_are_refused_as_before_here_and_in_child_processes(own_process: dict[str, Any]):
    assert own_process["opened"] == []


def test_forces_and_stress_are_the_packages_own_to_the_last_bit_and_energies_but_for_rounding(
    own_process: dict[str, Any],
):
    assert own_process["different"] == []
    assert own_process["size"] > 1e-4


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"elements": [29, 8, 29]}, "Cu is there twice"),
        ({"elements": []}, "elements = "),
        ({"elements": [0]}, "elements.0 = 0"),
        ({"elements": [29, -1]}, "elements.1 = -1"),
        ({"elements": [500]}, "elements.0 = 500"),
        ({"max_l": 0}, "max_l = 0"),
        ({"max_l": 12}, "max_l = 12"),
    ],
)
def test_numbers_of_which_the_package_makes_no_model_are_refused_by_name(values: dict[str, Any], told: str):
    with pytest.raises(ConfigError, match=re.escape(told)):
        MaceConfig.parse(values, "architecture.config")


def test_an_element_without_a_row_is_refused_before_and_after_building():
    config = SMALL.model_copy(update={"elements": (1, 8, 13, 14, 29)})
    with pytest.raises(ConfigError, match=r"no row for N \(Z = 7\).*architecture.config.elements"):
        build(config, DatasetInfo(elements=(1, 7, 8)))
    potential = Potential.of(ARCHITECTURE, config, DatasetInfo(elements=(1, 8)), seed=0)
    known, unknown = (structure([z, 8], [[0, 0, 0], [1.2, 0, 0]]) for z in (1, 7))
    assert potential(collate([known], potential.graph)).forces.isfinite().all()
    with pytest.raises(DataError, match=r"no row for N \(Z = 7\)"):
        potential(collate([unknown], potential.graph))


def test_models_of_89_elements_cover_those_of_mptrj():
    assert len(MPTRJ) == 89
    assert {1, 83, 89, 94} <= set(MPTRJ)
    assert not {84, 88, 95} & set(MPTRJ)


WITHOUT = """
import importlib.metadata as metadata
found = metadata.version
def version(name):
    if name == "mace-torch":
        raise metadata.PackageNotFoundError(name)
    return found(name)
metadata.version = version
from matscale.plugin import PluginError, host
try:
    host().architecture("mace")
except PluginError as error:
    print(error)
"""


def test_without_the_package_the_host_says_how_to_install_it_beside_matscale():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=120, check=True)
    assert "cannot be used: mace-torch is not installed" in done.stdout
    assert 'pip install --no-deps "mace-torch>=' in done.stdout


def test_a_package_that_cannot_be_imported_is_an_error_of_the_plugin(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mace", None)  # as if its import failed
    with pytest.raises(PluginError, match=r"mace-torch 0\.3\.\d+ beside e3nn 0\.6.* cannot be imported .*--no-deps"):
        build(SMALL, DatasetInfo.any())


def test_the_contract_holds_for_the_blocks_of_other_foundation_models():
    for blocks in ("agnostic", "density"):
        config = SMALL.model_copy(update={"blocks": blocks})
        chosen = {str(check).removeprefix("mace-"): check for check in checks(ARCHITECTURE, config)}
        for name in ("rotation", "smooth"):
            chosen[name]()


def alloy(formula: str, rng: np.random.Generator) -> Structure:
    """Two atoms in a strained, rattled cell, labelled by ASE's EMT."""
    from ase import Atoms
    from ase.calculators.emt import EMT

    cell = 3.0 * (np.eye(3) + 0.05 * rng.standard_normal((3, 3)))
    atoms = Atoms(formula, scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=cell, pbc=True, calculator=EMT())
    atoms.rattle(0.1, rng=rng)
    labelled = Structure.from_ase(atoms)
    labelled.energy, labelled.forces = atoms.get_potential_energy(), atoms.get_forces()
    labelled.stress = voigt_to_full(atoms.get_stress())
    return labelled


@pytest.fixture(scope="module")
def alloys(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    path, rng = tmp_path_factory.mktemp("data") / "alloys", np.random.default_rng(1)
    writer = ShardWriter(path, labels_by="surrogate: emt")
    for k in range(24):
        writer.append(alloy(["AlCu", "Al2", "CuNi", "Ni2", "AlNi", "Cu2"][k % 6], rng))
    writer.finish()
    return PackedDataset.open(path)


def settings(alloys: PackedDataset) -> TrainConfig:
    """Configuration of a short run that overfits eight structures."""
    small = {"channels": 4, "n_layers": 1, "max_l": 1, "correlation": 2, "radial_width": 8, "cutoff": 4.0}
    plain = {
        "architecture": {"name": "mace", "config": small},
        "data": {"path": str(alloys.path), "validation": 0.25, "overfit": 8, "cache_graphs": False},
        "batch": {"structures": 8},
        "optimizer": {"lr": 2e-2},
        "budget": {"steps": 60},
        "evaluation": {"every": 60},
        "compute": {"device": "cpu"},
        "log_every": 1,
    }
    return resolved(TrainConfig.parse(plain), ARCHITECTURE)


class StopAt(Reporter):
    """Sends the process a SIGTERM when a step is logged."""

    def __init__(self, step: int) -> None:
        self.step = step

    def logged(self, row: dict[str, Any]) -> None:
        if row["step"] == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return checkpoint.load_weights(checkpoint.folder_of(run.checkpoint_folder, run.last))


@pytest.fixture(scope="module")
def unbroken(alloys: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(settings(alloys), tmp_path_factory.mktemp("runs") / "unbroken", architecture=ARCHITECTURE)


def test_eight_structures_are_learnt(unbroken: Run):
    losses = [row["loss"] for row in unbroken.metrics("train")]
    assert losses[-1] < 0.6 * losses[0]


def test_flops_of_any_batch_follow_from_a_fit_within_one_percent(unbroken: Run):
    assert unbroken.info["flops_counted_by"] == "fit"
    assert unbroken.info["flops_deviation"] < 0.01
    assert unbroken.info["flops_opaque"] == []


def test_a_run_that_is_stopped_resumes_bit_for_bit(unbroken: Run, tmp_path: Path):
    with pytest.raises(StoppedEarly):
        train(unbroken.config, tmp_path / "run", architecture=ARCHITECTURE, progress=StopAt(17))
    resumed = train(unbroken.config, tmp_path / "run", resume=True, architecture=ARCHITECTURE)
    of_resumed, of_unbroken = ([row["loss"] for row in run.metrics("train")] for run in (resumed, unbroken))
    assert of_resumed == of_unbroken
    ours, theirs = (weights(run) for run in (resumed, unbroken))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_half_precision_is_refused_with_the_setting_to_change():
    potential = Potential.of(ARCHITECTURE, SMALL, DatasetInfo.any(), seed=0)
    batch = collate([metal()], potential.graph)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ConfigError, match=r"mace does not compute in half precision.*compute\.precision"),
    ):
        potential(batch)
