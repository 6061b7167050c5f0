"""The equation of state of exact curves, of ASE's EMT, and of a model that was trained on it."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.eos import birchmurnaghan
from ase.io import write
from ase.units import GPa
from click.testing import CliRunner, Result
from matscale_eos import fit, scan

from matscale.plugin import MatscaleError, Structure
from matscale.testing import ShardWriter, TrainConfig, train, voigt_to_full

MAIN = entry_points(group="console_scripts", name="matscale")["matscale"].load()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_an_exact_curve_gives_back_its_parameters():
    volumes = np.linspace(40, 60, 9)
    energies = birchmurnaghan(volumes, -3.0, 0.8, 4.5, 51.0)
    found = fit("Cu4", 4, list(volumes), list(energies))
    assert (found.volume, found.energy) == pytest.approx((51.0, -3.0), rel=1e-6)
    assert (found.bulk_modulus, found.bulk_modulus_derivative) == pytest.approx((0.8 / GPa, 4.5), rel=1e-4)
    assert found.residual < 1e-8


def test_the_residual_is_the_part_per_atom_that_the_curve_does_not_follow():
    volumes = np.linspace(40, 60, 200)
    noise = 0.004 * np.where(np.arange(200) % 2, 1.0, -1.0)
    found = fit("Cu4", 4, list(volumes), list(birchmurnaghan(volumes, -3.0, 0.8, 4.5, 51.0) + noise))
    assert found.residual == pytest.approx(0.001, rel=0.05)


@pytest.mark.parametrize(("minimum", "advice"), [(35.0, "smaller cell"), (70.0, "larger cell")])
def test_a_minimum_outside_of_the_scanned_volumes_is_refused_with_what_to_do(minimum: float, advice: str):
    volumes = np.linspace(40, 60, 9)
    with pytest.raises(MatscaleError, match=f"40 to 60 Å³: .* no minimum to fit.*--span.*{advice}"):
        fit("Cu4", 4, list(volumes), list(birchmurnaghan(volumes, -3.0, 0.8, 4.5, minimum)))


def test_energies_that_do_not_depend_on_the_volume_are_refused():
    with pytest.raises(MatscaleError, match="no minimum"):
        fit("Cu4", 4, list(np.linspace(40, 60, 9)), [-3.0] * 9)


def test_a_dip_in_a_hill_is_no_equilibrium():
    volumes = np.linspace(40, 60, 9)
    energies = -0.01 * (volumes - 50) ** 2
    energies[4] -= 2.0
    with pytest.raises(MatscaleError, match=r"does not fit|bulk modulus of -.* which is no minimum"):
        fit("Cu4", 4, list(volumes), list(energies))


def test_a_scan_scales_the_cell_and_leaves_the_structure():
    copper = bulk("Cu", cubic=True)
    before = copper.cell.array.copy()
    volumes, energies = scan(copper, EMT(), points=5, span=0.1)
    assert volumes == pytest.approx(copper.get_volume() * np.linspace(0.9, 1.1, 5))
    stretched = copper.copy()
    stretched.set_cell(copper.cell * 1.1 ** (1 / 3), scale_atoms=True)
    stretched.calc = EMT()
    assert energies[-1] == pytest.approx(stretched.get_potential_energy())
    assert (copper.cell.array == before).all()


# The command, with a model ------------------------------------------------------------------------------------------


def labelled(atoms: Atoms) -> Structure:
    atoms.calc = EMT()
    structure = Structure.from_ase(atoms)
    structure.energy, structure.forces = atoms.get_potential_energy(), atoms.get_forces()
    structure.stress = voigt_to_full(atoms.get_stress())
    return structure


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SchNet, trained for seconds on strained and rattled copper."""
    folder, rng = tmp_path_factory.mktemp("eos"), np.random.default_rng(0)
    writer = ShardWriter(folder / "data", labels_by="surrogate: emt")
    for factor in np.linspace(0.8, 1.2, 40):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell.array * factor ** (1 / 3), scale_atoms=True)
        atoms.rattle(0.02, rng=rng)
        writer.append(labelled(atoms))
    writer.finish()
    config = {
        "architecture": {
            "name": "schnet",
            "config": {"hidden": 16, "filters": 16, "n_layers": 2, "n_radial": 20, "cutoff": 4.5},
        },
        "data": {"path": str(folder / "data"), "validation": 0.2, "split_by": "structure"},
        "batch": {"structures": 8},
        "optimizer": {"lr": 5e-3},
        "budget": {"steps": 200},
        "evaluation": {"every": 200},
        "compute": {"device": "cpu"},
    }
    return train(TrainConfig.parse(config), folder / "run").path


@pytest.fixture
def copper(tmp_path: Path) -> Path:
    write(tmp_path / "cu.cif", bulk("Cu", cubic=True))
    return tmp_path / "cu.cif"


def matscale(*arguments: object) -> Result:
    return CliRunner().invoke(MAIN, [str(a) for a in arguments], catch_exceptions=False)


def test_the_installed_command_gives_the_bulk_modulus_of_what_the_model_was_trained_on(run: Path, copper: Path):
    result = matscale("eos", run, copper, "--json")
    assert result.exit_code == 0, result.stderr
    found, (volumes, energies) = json.loads(result.stdout), scan(bulk("Cu", cubic=True), EMT(), 11, 0.1)
    truth = fit("Cu4", 4, volumes, energies)
    assert found["formula"] == "Cu4"
    assert found["volumes"] == pytest.approx(volumes, rel=1e-4)  # a CIF file has so many digits
    assert found["volume"] == pytest.approx(truth.volume, rel=0.02)
    assert found["bulk_modulus"] == pytest.approx(truth.bulk_modulus, rel=0.2)


def test_people_are_shown_volume_and_bulk_modulus_with_units(run: Path, copper: Path):
    result = matscale("eos", run, copper, "--points", 7)
    assert result.exit_code == 0, result.stderr
    assert "scanned       7 volumes" in result.stdout
    assert "GPa" in result.stdout
    assert "Å³/atom" in result.stdout
    assert "meV/atom" in result.stdout


def test_a_scan_beside_the_minimum_ends_with_1(run: Path, tmp_path: Path):
    write(tmp_path / "wide.cif", bulk("Cu", a=3.9, cubic=True))
    result = matscale("eos", run, tmp_path / "wide.cif", "--span", 0.05)
    assert result.exit_code == 1
    assert "begin with a smaller cell" in result.stderr


@pytest.mark.parametrize(
    ("atoms", "told"),
    [(bulk("Al"), "Al"), (molecule("H2O"), "periodic in 0 directions")],
    ids=["another element", "a molecule"],
)
def test_what_the_model_cannot_know_is_bad_data(run: Path, tmp_path: Path, atoms: Atoms, told: str):
    write(tmp_path / "a.xyz", atoms, format="extxyz")
    result = matscale("eos", run, tmp_path / "a.xyz")
    assert result.exit_code == 3
    assert told in result.stderr


def test_a_file_that_is_none_is_bad_data_and_a_folder_that_is_no_run_a_mistake(run: Path, copper: Path, tmp_path: Path):
    assert matscale("eos", run, tmp_path / "missing.cif").exit_code == 3
    assert matscale("eos", tmp_path, copper).exit_code == 2
