"""The contract that every architecture must pass, and what is special about wrapping the package nequip."""

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
from matscale_nequip import OMAT24, SIZES, NequipConfig, build, ladder, n_parameters, register_architectures

from matscale.plugin import ConfigError, DataError, DatasetInfo, Potential, Run, Structure, collate, count_parameters
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
SMALL = NequipConfig(features=(4, 3, 2), n_layers=3, embedding=4, radial_width=8, cutoff=4.0)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_the_installed_package_is_found_by_its_name():
    from matscale.plugin import host

    assert host().architecture("nequip").config is NequipConfig
    assert host().origin("nequip")[0] == "matscale-nequip"


@pytest.mark.parametrize("check", checks(ARCHITECTURE, SMALL), ids=str)
def test_the_contract(check):
    check()


@pytest.mark.parametrize(("size", "n_params"), [("default", 441_152), ("S", 616_352), ("M", 3_189_664)])
def test_published_sizes_have_the_parameters_of_the_package(size: str, n_params: int):
    assert count_parameters(build(SIZES[size], DatasetInfo.any()))["total"] == n_params


def test_parameters_are_counted_without_building():
    assert [n_parameters(SIZES[size]) for size in "SML"] == [616_352, 3_189_664, 6_836_128]
    assert n_parameters(SIZES["XL"]) == 32_136_288
    deep = NequipConfig(features=(4, 3, 2, 1), n_layers=5, embedding=3, radial_depth=2, radial_width=8)
    for config in (ladder(4_000), deep):
        assert n_parameters(config) == count_parameters(build(config, DatasetInfo.any()))["total"]


def test_every_rung_from_3k_to_300M_is_within_five_percent_of_what_was_asked():
    wanted = np.geomspace(3_000, 3e8, 21).astype(int)
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


def test_energies_forces_and_stress_are_the_packages_own_to_the_last_bit(own_process: dict[str, Any]):
    assert own_process["different"] == []
    assert own_process["size"] > 1e-3


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"elements": [29, 8, 29]}, "Cu is there twice"),
        ({"elements": []}, "elements = "),
        ({"elements": [0]}, "elements.0 = 0"),
        ({"elements": [29, -1]}, "elements.1 = -1"),
        ({"elements": [500]}, "elements.0 = 500"),
        ({"features": [4, 0]}, "features.1 = 0"),
    ],
)
def test_numbers_of_which_the_package_makes_no_model_are_refused_by_name(values: dict[str, Any], told: str):
    with pytest.raises(ConfigError, match=re.escape(told)):
        NequipConfig.parse(values, "architecture.config")


def test_an_element_without_a_row_is_refused_before_and_after_building():
    config = SMALL.model_copy(update={"elements": (1, 8, 13, 14, 29)})
    with pytest.raises(ConfigError, match=r"no row for N \(Z = 7\).*architecture.config.elements"):
        build(config, DatasetInfo(elements=(1, 7, 8)))
    potential = Potential.of(ARCHITECTURE, config, DatasetInfo(elements=(1, 8)), seed=0)
    known, unknown = (structure([z, 8], [[0, 0, 0], [1.2, 0, 0]]) for z in (1, 7))
    assert potential(collate([known], potential.graph)).forces.isfinite().all()
    with pytest.raises(DataError, match=r"no row for N \(Z = 7\)"):
        potential(collate([unknown], potential.graph))


def test_an_element_has_the_row_of_its_place_in_the_list_of_elements():
    def energy(elements: tuple[int, ...], exchange: bool) -> float:
        """Energy of one molecule, with weights that depend on the seed alone."""
        config = SMALL.model_copy(update={"elements": elements})
        model = ARCHITECTURE.model(config, DatasetInfo(elements=(8, 14)), 0)
        table = model.model.model.func.type_embed.embed_module.weight
        with torch.no_grad():
            table.copy_(table.flip(0) if exchange else table)
        bent = structure([8, 14, 14], [[0, 0, 0], [1.6, 0, 0], [0.3, 1.5, 0]])
        return model(collate([bent], ARCHITECTURE.graph(config))).energy.item()

    assert energy((14, 8), exchange=False) == energy((8, 14), exchange=True)
    assert energy((14, 8), exchange=False) != pytest.approx(energy((8, 14), exchange=False), rel=1e-3)


def test_presets_cover_the_89_elements_of_omat24():
    assert len(OMAT24) == 89
    assert {1, 83, 89, 94} <= set(OMAT24)
    assert not {84, 88, 95} & set(OMAT24)


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
    small = {"features": [4, 3], "n_layers": 2, "embedding": 4, "radial_width": 8, "cutoff": 4.0}
    plain = {
        "architecture": {"name": "nequip", "config": small},
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
        pytest.raises(ConfigError, match=r"nequip does not compute in half precision.*compute\.precision"),
    ):
        potential(batch)
