"""Predictions for files: in order, with what the file said kept, and no half-written results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

import matscale
from matscale.core.errors import ConfigError, DataError
from matscale.core.inference.predict import predict_file
from matscale.core.model.potential import Potential
from matscale.core.runs.record import Run

MakeRun = Callable[..., Run]


@pytest.fixture
def potential(make_run: MakeRun) -> Potential:
    return matscale.load(make_run("schnet", hidden=8, filters=8, n_radial=8, n_layers=1, cutoff=4.0), dtype="float64")


@pytest.fixture
def crystals(rng: np.random.Generator) -> list[Atoms]:
    """Seven rattled crystals of 1 to 4 atoms that say who they are."""
    images = []
    for k in range(7):
        atoms = bulk(("Al", "Cu", "Ni")[k % 3], cubic=k % 2 == 0)
        atoms.rattle(0.1, rng=rng)
        atoms.info = {"id": f"crystal {k}", "REF_energy": float(k)}
        atoms.arrays["layer"] = np.arange(len(atoms))
        images.append(atoms)
    return images


def test_predictions_come_in_order_with_what_the_file_said(
    potential: Potential, crystals: list[Atoms], tmp_path: Path
) -> None:
    write(tmp_path / "in.extxyz", crystals)
    written, skipped = predict_file(potential, tmp_path / "in.extxyz", tmp_path / "out.extxyz", batch=3)
    assert (written, skipped) == (7, [])
    for before, after in zip(crystals, read(tmp_path / "out.extxyz", ":"), strict=True):
        assert after.info["id"] == before.info["id"]
        assert after.info["REF_energy"] == before.info["REF_energy"]
        np.testing.assert_array_equal(after.arrays["layer"], before.arrays["layer"])
        np.testing.assert_allclose(after.positions, before.positions, atol=1e-8)
        np.testing.assert_array_equal(after.pbc, before.pbc)


def test_a_file_holds_what_the_calculator_says(potential: Potential, crystals: list[Atoms], tmp_path: Path) -> None:
    from matscale.core.inference.calculator import PotentialCalculator

    write(tmp_path / "in.extxyz", crystals)
    predict_file(potential, tmp_path / "in.extxyz", tmp_path / "out.extxyz")
    for before, after in zip(crystals, read(tmp_path / "out.extxyz", ":"), strict=True):
        before.calc = PotentialCalculator(potential)
        assert after.get_potential_energy() == pytest.approx(before.get_potential_energy(), rel=1e-7)
        np.testing.assert_allclose(after.get_forces(), before.get_forces(), atol=1e-6)
        np.testing.assert_allclose(after.get_stress(), before.get_stress(), atol=1e-6)


def test_predictions_replace_labels_of_the_same_name(potential: Potential, tmp_path: Path) -> None:
    labelled = bulk("Cu")
    labelled.calc = SinglePointCalculator(labelled, energy=1234.5, forces=np.full((1, 3), 7.0), stress=np.ones(6))
    write(tmp_path / "in.extxyz", labelled)
    predict_file(potential, tmp_path / "in.extxyz", tmp_path / "out.extxyz")
    predicted = read(tmp_path / "out.extxyz")
    assert predicted.get_potential_energy() != pytest.approx(1234.5)
    assert np.abs(predicted.get_forces()).max() < 7.0
    assert "1234.5" not in (tmp_path / "out.extxyz").read_text()


@pytest.mark.parametrize("suffix", [".xyz", ".extxyz.gz", ".extxyz.xz"])
def test_results_can_be_compressed(suffix: str, potential: Potential, crystals: list[Atoms], tmp_path: Path) -> None:
    write(tmp_path / "in.extxyz", crystals)
    predict_file(potential, tmp_path / "in.extxyz", tmp_path / f"out{suffix}")
    again = tmp_path / f"again{suffix}"
    predict_file(potential, tmp_path / f"out{suffix}", again)
    first, second = read(tmp_path / f"out{suffix}", ":"), read(again, ":")
    assert [a.info["id"] for a in first] == [a.info["id"] for a in second] == [a.info["id"] for a in crystals]


def test_other_formats_that_ase_reads_are_sources(potential: Potential, crystals: list[Atoms], tmp_path: Path) -> None:
    write(tmp_path / "POSCAR", crystals[0], format="vasp")
    assert predict_file(potential, tmp_path / "POSCAR", tmp_path / "out.extxyz")[0] == 1


def test_a_molecule_gets_no_stress(potential: Potential, tmp_path: Path) -> None:
    write(tmp_path / "in.extxyz", Atoms("AlCu", positions=[[0, 0, 0], [0, 0, 2.2]]))
    predict_file(potential, tmp_path / "in.extxyz", tmp_path / "out.extxyz")
    results = read(tmp_path / "out.extxyz").calc.results
    assert np.abs(results["forces"]).max() > 0
    assert "stress" not in results


def test_a_structure_that_cannot_be_predicted_is_named_and_nothing_is_written(
    potential: Potential, crystals: list[Atoms], tmp_path: Path
) -> None:
    write(tmp_path / "in.extxyz", [*crystals[:2], molecule("H2O"), *crystals[2:]])
    with pytest.raises(DataError, match=r"structure 2 \(counted from 0\).*H \(Z = 1\), O \(Z = 8\).*--skip-invalid"):
        predict_file(potential, tmp_path / "in.extxyz", tmp_path / "out.extxyz", batch=2)
    assert [p.name for p in tmp_path.iterdir() if "out" in p.name] == []


def test_structures_that_cannot_be_predicted_can_be_left_out_and_listed(
    potential: Potential, crystals: list[Atoms], tmp_path: Path
) -> None:
    overlapping = bulk("Cu", cubic=True)
    overlapping.positions[1] = overlapping.positions[0]
    write(tmp_path / "in.extxyz", [crystals[0], molecule("H2O"), crystals[1], overlapping])
    written, skipped = predict_file(
        potential, tmp_path / "in.extxyz", tmp_path / "out.extxyz", skip_invalid=True, batch=1
    )
    assert written == 2
    assert [s.position for s in skipped] == [1, 3]
    assert "not trained on H" in skipped[0].reason
    assert "in one place" in skipped[1].reason
    assert [a.info["id"] for a in read(tmp_path / "out.extxyz", ":")] == ["crystal 0", "crystal 1"]


def test_an_unreadable_source_names_the_structure_where_reading_ended(
    potential: Potential, crystals: list[Atoms], tmp_path: Path
) -> None:
    write(tmp_path / "in.extxyz", crystals)
    text = (tmp_path / "in.extxyz").read_text().splitlines(keepends=True)
    (tmp_path / "in.extxyz").write_text("".join(text[:-1]) + "Cu 1.0 oops\n")
    with pytest.raises(DataError, match=r"in\.extxyz: structure \d+ .*cannot be read"):
        predict_file(potential, tmp_path / "in.extxyz", tmp_path / "out.extxyz")
    assert not (tmp_path / "out.extxyz").exists()


def test_a_missing_source_and_an_unknown_target_are_refused(
    potential: Potential, crystals: list[Atoms], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no such file"):
        predict_file(potential, tmp_path / "absent.extxyz", tmp_path / "out.extxyz")
    write(tmp_path / "in.extxyz", crystals)
    with pytest.raises(ConfigError, match=r"ends in \.extxyz"):
        predict_file(potential, tmp_path / "in.extxyz", tmp_path / "out.cif")


def test_results_may_take_the_place_of_the_source(potential: Potential, crystals: list[Atoms], tmp_path: Path) -> None:
    write(tmp_path / "in.extxyz", crystals)
    predict_file(potential, tmp_path / "in.extxyz", tmp_path / "in.extxyz", batch=2)
    assert [a.info["id"] for a in read(tmp_path / "in.extxyz", ":")] == [a.info["id"] for a in crystals]
