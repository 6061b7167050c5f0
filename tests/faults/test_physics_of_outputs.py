"""Outputs where physics has none, and what a source said beside the predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from click.testing import CliRunner

import matscale
from matscale.cli import main
from matscale.core.contract import structures as examples
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate
from matscale.core.inference.predict import predict_file
from matscale.core.model.outputs import Outputs
from matscale.core.model.potential import Potential
from matscale.core.runs.record import Run
from matscale.core.train.residuals import Masks

MakeRun = Callable[..., Run]
LITTLE = {
    "schnet": {"hidden": 8, "filters": 8, "n_radial": 8, "n_layers": 1, "cutoff": 4.0},
    "fcn": {"hidden": 8, "embedding": 8, "depth": 1},
}


class Numbers(torch.nn.Module):
    """Predicts 1 for everything."""

    def forward(self, batch: AtomicBatch) -> Outputs:
        ones = batch.positions.new_ones
        return Outputs(ones(batch.n_structures), ones(batch.n_atoms, 3), ones(batch.n_structures, 3, 3))


def without_vector(axis: int) -> np.ndarray:
    cell = np.diag([3.0, 3.0, 9.0])
    cell[axis] = 0.0
    return cell


CLUSTER = Atoms("Cu4", positions=[[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0], [1.3, 1.3, 2.2]])
BOX = np.eye(3) * 8.0
VOLUMES = [
    (np.zeros((3, 3)), False, False),
    (BOX, False, False),
    (without_vector(2), [True, True, False], False),
    (np.array([[3.0, 0.1, 0.2], [0.3, 3.0, 0.1], [3.3, 3.1, 0.3]]), [True, True, False], False),  # in one plane
    (BOX, [True, True, False], True),
    (BOX, True, True),
]


@pytest.mark.parametrize(("cell", "pbc", "has_stress"), VOLUMES)
def test_a_direct_stress_is_nan_where_there_is_no_volume(cell: np.ndarray, pbc: object, has_stress: bool) -> None:
    structure = examples.structure([29, 13], [[0, 0, 0], [2, 0, 0]], cell, pbc)
    outputs = Potential(Numbers(), derive=False, elements=(13, 29))(collate([structure]))
    assert bool(outputs.stress.isfinite().all()) is has_stress
    assert bool(outputs.stress.isnan().all()) is not has_stress
    assert outputs.forces.isfinite().all()


@pytest.mark.parametrize(("cell", "pbc", "has_stress"), VOLUMES)
def test_a_label_counts_only_where_a_prediction_is_defined(cell: np.ndarray, pbc: object, has_stress: bool) -> None:
    structure = examples.structure([29], [[0, 0, 0]], cell, pbc)
    batch = collate([replace(structure, stress=np.eye(3))], Graph.none())
    assert Masks.of(batch).count("stress_isotropic") == int(has_stress)


@pytest.mark.parametrize("architecture", sorted(LITTLE))
def test_a_cluster_has_no_stress_in_a_file_nor_in_a_calculator(
    architecture: str, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(architecture, **LITTLE[architecture])
    write(tmp_path / "in.extxyz", CLUSTER)
    predict_file(matscale.load(run), tmp_path / "in.extxyz", tmp_path / "out.extxyz")
    assert "stress" not in (tmp_path / "out.extxyz").read_text()
    atoms = CLUSTER.copy()
    atoms.calc = matscale.calculator(run)
    assert np.isfinite(atoms.get_forces()).all()
    with pytest.raises(PropertyNotImplementedError, match="three lattice vectors"):
        atoms.get_stress()


def test_the_net_force_of_direct_models_is_removed_on_request(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("fcn", **LITTLE["fcn"])
    images = [bulk("Cu", cubic=True), CLUSTER]
    for atoms in images:
        atoms.symbols[0] = "Al"
    write(tmp_path / "in.extxyz", images)
    forces = {}
    for name, options in (("as-is", []), ("removed", ["--zero-net-force"])):
        target = tmp_path / f"{name}.extxyz"
        result = CliRunner().invoke(
            main, ["predict", str(run.path), str(tmp_path / "in.extxyz"), "-o", str(target), *options]
        )
        assert result.exit_code == 0, result.output
        forces[name] = [atoms.get_forces() for atoms in read(target, ":")]
    for before, after in zip(forces["as-is"], forces["removed"], strict=True):
        assert np.abs(before.sum(axis=0)).max() > 1e-3
        np.testing.assert_allclose(after, before - before.mean(axis=0), atol=1e-6)
    atoms = images[0].copy()
    atoms.calc = matscale.calculator(run, zero_net_force=True)
    np.testing.assert_allclose(atoms.get_forces().sum(axis=0), 0.0, atol=1e-6)


def test_a_run_that_was_trained_without_net_force_predicts_none(make_run: MakeRun) -> None:
    run = make_run("fcn", training={"net_force": "removed"}, **LITTLE["fcn"])
    assert matscale.load(run).zero_net_force
    assert not matscale.load(make_run("fcn", name="other", **LITTLE["fcn"])).zero_net_force


def test_what_the_source_said_stays_beside_the_predictions(make_run: MakeRun, tmp_path: Path) -> None:
    images = []
    for k in range(2):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=k)
        n = len(atoms)
        said = {"magmoms": 0.1 * np.arange(n), "charges": 0.2 * np.arange(n), "dipole": np.array([0, 0, 0.5])}
        own = {"energy": 1.0, "free_energy": 0.9, "forces": np.ones((n, 3)), "energies": np.full(n, 0.25)}
        atoms.calc = SinglePointCalculator(atoms, **own, **said, magmom=1.5)
        images.append(atoms)
    write(tmp_path / "in.extxyz", images)
    potential = matscale.load(make_run("schnet", **LITTLE["schnet"]))
    predict_file(potential, tmp_path / "in.extxyz", tmp_path / "out.extxyz")
    for before, after in zip(images, read(tmp_path / "out.extxyz", ":"), strict=True):
        for name in ("magmoms", "charges", "dipole", "magmom"):
            np.testing.assert_allclose(after.calc.results[name], before.calc.results[name], atol=1e-7)
        assert after.info["source_free_energy"] == 0.9
        np.testing.assert_allclose(after.arrays["source_energies"], 0.25)
        assert after.get_potential_energy() != 1.0
        assert np.abs(after.get_forces() - 1.0).max() > 1e-3
        assert "free_energy" not in after.calc.results
