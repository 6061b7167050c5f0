"""Input that EquiformerV2 cannot take, as users meet it: an exit code, the value, the limit, and no traceback."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from click.testing import CliRunner, Result

import matscale
from matscale.cli import main
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import DataError
from matscale.core.runs.record import Run

MakeRun = Callable[..., Run]
TINY = dict.fromkeys(["channels", "edge_channels", "attention_hidden", "alpha_channels", "ffn_hidden"], 4) | {
    "n_layers": 1, "n_radial": 16, "lmax": 2, "grid_resolution": 10, "cutoff": 5.0
}  # fmt: skip
SMOOTH = {"max_neighbors": 0}
GRADIENT = {"max_neighbors": 0, "forces": "gradient"}


def command(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def refused(code: int, *arguments: object) -> str:
    """The message of a command that ends with `code`; its lines joined."""
    result = command(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["lmax=2", "mmax=3"], "mmax = 3 exceeds lmax = 2"),
        (["lmax=6", "grid_resolution=12"], "grid_resolution = 12 with lmax = 6: the resolution has to be even"),
        (["grid=lebedev", "lmax=6", "grid_resolution=14"], "no Lebedev rule of degree 13"),
        (["grid=lebedev", "grid_resolution=8"], "at least 2(lmax + 1) = 10"),
        (
            ["strict_neighbors=true", "max_neighbors=0"],
            "strict_neighbors = true with max_neighbors = 0: all neighbours within",
        ),
        (["max_atomic_number=119"], "max_atomic_number = 119: Input should be less than or equal to 118"),
    ],
)
def test_options_that_do_not_fit_end_train_and_show_with_exit_2(options: list[str], told: str, tmp_path: Path) -> None:
    shown = [part for option in options for part in ("--set", option)]
    message = refused(2, "models", "show", "eqv2", *shown)
    assert told in message
    assert "Value error" not in message  # pydantic's words, not ours
    trained = [part for option in options for part in ("--set", f"architecture.config.{option}")]
    assert told in refused(2, "train", "--arch", "eqv2", "--data", "emt", "-o", tmp_path / "run", *trained)
    assert not (tmp_path / "run").exists()


def test_training_on_an_element_beyond_the_table_ends_with_exit_2(alloys: PackedDataset, tmp_path: Path) -> None:
    options = ["--set", "architecture.config.max_atomic_number=28", "--params", "5k", "--steps", "1"]
    message = refused(2, "train", "--arch", "eqv2", "--data", alloys.path, "-o", tmp_path / "run", *options)
    assert "the data contain element 29, but max_atomic_number = 28. Set it to 29 or more" in message


def test_predicting_an_element_beyond_the_table_ends_with_exit_3(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("eqv2", **TINY, max_atomic_number=29)
    write(tmp_path / "in.extxyz", Atoms("CuZn", positions=[[0, 0, 0], [2, 2, 2]], cell=[4] * 3, pbc=True))
    message = refused(3, "predict", run.path, tmp_path / "in.extxyz", "-o", tmp_path / "out.extxyz")
    assert "not trained on Zn (Z = 30)" in message
    assert not (tmp_path / "out.extxyz").exists()


@pytest.mark.parametrize("options", [{}, SMOOTH])
@pytest.mark.parametrize(
    ("apart", "told"), [(0.0, "are in one place"), (1e-7, "1e-07 Å apart, less than 0.01 Å"), (9e-3, "0.009 Å apart")]
)
def test_atoms_without_a_distance_end_predict_with_exit_3(
    make_run: MakeRun, tmp_path: Path, options: dict, apart: float, told: str
) -> None:
    run = make_run("eqv2", **TINY, **options)
    write(tmp_path / "in.traj", Atoms("CuAl", positions=[[0, 0, 0], [0, 0, apart]], cell=[6] * 3, pbc=True))
    message = refused(3, "predict", run.path, tmp_path / "in.traj", "-o", tmp_path / "out.extxyz")
    assert "structure 0 (counted from 0): atoms 0 and 1" in message
    assert told in message
    atoms = read(tmp_path / "in.traj")
    atoms.calc = matscale.calculator(run.path)
    with pytest.raises(DataError, match="atoms 0 and 1"):
        atoms.get_potential_energy()


TORN = {
    "single": (Atoms("Cu"), "(it is a single atom without periodic images)"),
    "thin": (Atoms("Cu", cell=[80] * 3, pbc=True), "(the two nearest atoms are 80 Å apart)"),
    "torn": (Atoms("CuAl", positions=[[0, 0, 0], [0, 30, 0]]), "(the two nearest atoms are 30 Å apart)"),
}
"""Structures without edges."""


@pytest.mark.parametrize("name", TORN)
def test_a_structure_without_edges_ends_predict_with_exit_3(make_run: MakeRun, tmp_path: Path, name: str) -> None:
    run, (atoms, told) = make_run("eqv2", **TINY), TORN[name]
    crystal = Atoms("CuAl", positions=[[0, 0, 0], [2, 2, 2]], cell=[4] * 3, pbc=True)
    write(tmp_path / "in.extxyz", [crystal, atoms])
    message = refused(3, "predict", run.path, tmp_path / "in.extxyz", "-o", tmp_path / "out.extxyz")
    assert f"structure 1 (counted from 0): no atom has a neighbour within the cutoff of 5 Å {told}" in message
    assert "data.isolated=true" in message
    again = command("predict", run.path, tmp_path / "in.extxyz", "-o", tmp_path / "out.extxyz", "--skip-invalid")
    assert "Left out structure 1 (counted from 0): no atom has a neighbour" in " ".join(again.stderr.split())
    copy = atoms.copy()
    copy.calc = matscale.calculator(run.path)
    with pytest.raises(DataError, match="no atom has a neighbour within the cutoff of 5 Å"):
        copy.get_potential_energy()


def test_one_neighbour_anywhere_is_enough(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("eqv2", **TINY)
    write(tmp_path / "in.extxyz", Atoms("Cu2Al", positions=[[0, 0, 0], [0, 2.5, 0], [0, 40, 0]]))
    result = command("predict", run.path, tmp_path / "in.extxyz", "-o", tmp_path / "out.extxyz")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("options", [{}, {"stress_head": "rank2"}, SMOOTH, GRADIENT], ids=str)
def test_a_run_that_learned_from_lone_atoms_predicts_them_one_by_one(
    make_run: MakeRun, tmp_path: Path, options: dict
) -> None:
    training = {"data": {"isolated": True}}
    run, box = make_run("eqv2", **TINY, **options, training=training), {"cell": [80] * 3, "pbc": True}
    alone = [Atoms("Cu", **box), Atoms("Al", **box), Atoms("CuAl", positions=[[0, 0, 0], [40, 40, 40]], **box)]
    write(tmp_path / "in.extxyz", [*alone, Atoms("Cu")])
    result = command("predict", run.path, tmp_path / "in.extxyz", "-o", tmp_path / "out.extxyz")
    assert result.exit_code == 0, result.output
    copper, aluminium, both, in_vacuum = read(tmp_path / "out.extxyz", ":")
    energies = [a.get_potential_energy() for a in (copper, aluminium, both, in_vacuum)]
    assert np.isfinite(energies).all()
    assert energies[0] != energies[1]
    assert energies[2] == pytest.approx(energies[0] + energies[1], rel=1e-6)
    assert energies[3] == pytest.approx(energies[0], rel=1e-6)
    assert not any(a.get_forces().any() for a in (copper, aluminium, both, in_vacuum))
    if options == GRADIENT:
        assert not copper.get_stress().any()


@pytest.mark.parametrize("cached", [True, False])
def test_training_refuses_structures_without_edges_unless_told_to_keep_them(tmp_path: Path, cached: bool) -> None:
    images = []
    for k in range(12):
        atoms = Atoms(["Cu", "Al"][k % 2], cell=[30.0 + k / 10] * 3, pbc=True)
        atoms.calc = SinglePointCalculator(atoms, energy=-3.5 + k % 2, forces=np.zeros((1, 3)), stress=np.zeros(6))
        images.append(atoms)
    write(tmp_path / "atoms.extxyz", images)
    assert command("data", "pack", tmp_path / "atoms.extxyz", "-o", tmp_path / "packed").exit_code == 0
    options = [part for key, value in TINY.items() for part in ("--set", f"architecture.config.{key}={value}")]
    train = (
        *("train", "--arch", "eqv2", "--data", tmp_path / "packed", "--steps", "2", "-q"),
        *("--device", "cpu", "--set", "compute.threads=1", "--set", f"data.cache_graphs={str(cached).lower()}"),
        *options,
    )
    message = refused(3, *train, "-o", tmp_path / "refused")
    assert re.search(r"structure \d+: no atom has a neighbour within the cutoff of 5 Å \(the two nearest", message)
    if cached:
        assert "This holds for 12 of the 12 structures in use." in message
    result = command(*train, "--set", "data.isolated=true", "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert command("evaluate", tmp_path / "run").exit_code == 0


def test_evaluating_on_structures_without_edges_ends_with_exit_3(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("eqv2", **TINY)
    atoms = Atoms("Cu", cell=[30.0] * 3, pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=-3.5, forces=np.zeros((1, 3)), stress=np.zeros(6))
    write(tmp_path / "atoms.extxyz", [atoms] * 3)
    assert command("data", "pack", tmp_path / "atoms.extxyz", "-o", tmp_path / "packed").exit_code == 0
    message = refused(3, "evaluate", run.path, "--data", tmp_path / "packed")
    assert "structure 0: no atom has a neighbour within the cutoff of 5 Å" in message
    assert "(the two nearest atoms are 30 Å apart)" in message
