"""Input that EquiformerV2 cannot take, as users meet it: an exit code, the value, the limit, and no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from click.testing import CliRunner, Result

import matscale
from matscale.cli import main
from matscale.core.data.packed import PackedDataset
from matscale.core.errors import DataError
from matscale.core.train.record import Run

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
        (["lmax=6", "grid_resolution=12"], "grid_resolution = 12 with lmax = 6: the grid has to be even and at least"),
        (["grid=lebedev", "lmax=6", "grid_resolution=14"], "no Lebedev rule of degree 13"),
        (["grid=lebedev", "grid_resolution=8"], "at least 2(lmax + 1) = 10"),
        (["strict_neighbors=true", "max_neighbors=0"], "strict_neighbors = true with max_neighbors = 0: there is no"),
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


@pytest.mark.parametrize("options", [{}, {"stress_head": "rank2"}, SMOOTH, GRADIENT], ids=str)
def test_structures_without_edges_are_predicted_atom_by_atom(make_run: MakeRun, tmp_path: Path, options: dict) -> None:
    run, box = make_run("eqv2", **TINY, **options), {"cell": [80] * 3, "pbc": True}
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


def test_a_dataset_of_atoms_without_edges_trains(tmp_path: Path) -> None:
    from ase.calculators.singlepoint import SinglePointCalculator

    images = []
    for k in range(12):
        atoms = Atoms(["Cu", "Al"][k % 2], cell=[30.0 + k / 10] * 3, pbc=True)
        atoms.calc = SinglePointCalculator(atoms, energy=-3.5 + k % 2, forces=np.zeros((1, 3)), stress=np.zeros(6))
        images.append(atoms)
    write(tmp_path / "atoms.extxyz", images)
    assert command("data", "pack", tmp_path / "atoms.extxyz", "-o", tmp_path / "packed").exit_code == 0
    options = [part for key, value in TINY.items() for part in ("--set", f"architecture.config.{key}={value}")]
    result = command(
        *("train", "--arch", "eqv2", "--data", tmp_path / "packed", "-o", tmp_path / "run", "--steps", "2", "-q"),
        *("--device", "cpu", "--set", "compute.threads=1", *options),
    )
    assert result.exit_code == 0, result.output
