"""`predict` reads files as `data pack` does: the same readers, units as the file states them, the same limits."""

from __future__ import annotations

import bz2
import sys
from collections import Counter

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import read, write
from ase.units import Bohr, Hartree, kcal, mol
from click.testing import CliRunner

import matscale
from matscale.cli import main
from matscale.core.data.sources.find import reader_of
from matscale.core.data.sources.limits import Limits, using
from matscale.core.data.sources.reader import to_ase
from matscale.core.errors import DataError
from matscale.core.inference.predict import predict_file

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LITTLE = {"hidden": 8, "filters": 8, "n_radial": 8, "n_layers": 1, "cutoff": 4.0}


@pytest.fixture
def run(make_run):
    return make_run("schnet", **LITTLE)


@pytest.fixture
def potential(run):
    return matscale.load(run, dtype="float64")


@pytest.fixture
def images(rng):
    found = []
    for k in range(3):
        atoms = bulk(("Al", "Cu", "Ni")[k], cubic=True)
        atoms.rattle(0.1, rng=rng)
        found.append(atoms)
    return found


def energies(potential, source, target, **options):
    predict_file(potential, source, target, **options)
    return [atoms.get_potential_energy() for atoms in read(target, ":")]


@pytest.fixture
def expected(potential, images, tmp_path):
    write(tmp_path / "plain.extxyz", images)
    return energies(potential, tmp_path / "plain.extxyz", tmp_path / "expected.extxyz")


def test_positions_in_the_unit_of_a_database_are_converted(potential, images, expected, tmp_path):
    with connect(tmp_path / "a.db") as database:
        database.metadata = {"_distance_unit": "Bohr", "_property_unit_dict": {"energy": "Hartree"}}
        for atoms in images:
            atoms.set_cell(atoms.cell / Bohr, scale_atoms=True)
            database.write(atoms, key_value_pairs={"tag": "x"}, data={"energy": np.array([1.0]), "f": {"g": None}})
    notes = Counter()
    assert energies(potential, tmp_path / "a.db", tmp_path / "o.extxyz", notes=notes) == pytest.approx(expected)
    assert [note for note in notes if "Bohr converted to Å" in note]
    written = read(tmp_path / "o.extxyz")
    assert (written.info["tag"], written.info["f"]) == ("x", {"g": None})


@pytest.mark.parametrize("statement", ["length_unit=Bohr energy_unit=Hartree", 'units="Hartree, Bohr"'])
def test_what_is_written_is_in_ev_and_angstrom_and_says_nothing_else(potential, images, expected, tmp_path, statement):
    for atoms in images:
        atoms.set_cell(atoms.cell / Bohr, scale_atoms=True)
        atoms.info |= {"REF_energy": -2.0, "free_energy": -1.0, "energy": -1.5}
    write(tmp_path / "a.extxyz", images)
    text = (tmp_path / "a.extxyz").read_text().replace("pbc=", f"{statement} pbc=")
    (tmp_path / "a.extxyz").write_text(text)
    assert energies(potential, tmp_path / "a.extxyz", tmp_path / "o.extxyz") == pytest.approx(expected, abs=1e-4)
    written = read(tmp_path / "o.extxyz")
    assert written.info["REF_energy"] == pytest.approx(-2 * Hartree)
    assert written.info["source_free_energy"] == pytest.approx(-Hartree)
    assert energies(potential, tmp_path / "o.extxyz", tmp_path / "again.extxyz") == pytest.approx(expected, abs=1e-4)
    assert read(tmp_path / "again.extxyz").info["REF_energy"] == pytest.approx(-2 * Hartree)


def test_a_unit_that_is_unknown_is_refused_and_can_be_given(run, images, expected, tmp_path):
    for atoms in images:
        atoms.info["length_unit"] = "furlong"
    write(tmp_path / "a.extxyz", images)
    line = ["predict", str(run.path), str(tmp_path / "a.extxyz"), "-o", str(tmp_path / "o.extxyz")]
    refused = CliRunner().invoke(main, line)
    assert (refused.exit_code, "furlong" in refused.stderr) == (3, True)
    given = CliRunner().invoke(main, [*line, "--unit", "length=Å", "--dtype", "float64"])
    assert given.exit_code == 0, given.stderr
    found = [atoms.get_potential_energy() for atoms in read(tmp_path / "o.extxyz", ":")]
    assert found == pytest.approx(expected)
    said = CliRunner().invoke(main, [*line, "--unit", "length=Bohr", "--skip-invalid"])
    assert "Bohr converted to Å" in said.stderr


@pytest.mark.parametrize("name", ["stress", "virial", "REF_stress"])
def test_six_numbers_of_a_stress_do_not_refuse_a_file(potential, images, expected, tmp_path, name):
    write(tmp_path / "a.extxyz", images)
    text = (tmp_path / "a.extxyz").read_text().replace("pbc=", f'{name}="1 2 3 4 5 6" pbc=')
    (tmp_path / "a.extxyz").write_text(text)
    assert energies(potential, tmp_path / "a.extxyz", tmp_path / "o.extxyz") == pytest.approx(expected)


@pytest.mark.parametrize(("suffix", "compress"), [(".bz2", bz2.compress), (".zst", zstd.compress)])
def test_files_are_read_in_every_compression_of_packing(potential, expected, tmp_path, suffix, compress):
    (tmp_path / f"a.extxyz{suffix}").write_bytes(compress((tmp_path / "plain.extxyz").read_bytes()))
    assert energies(potential, tmp_path / f"a.extxyz{suffix}", tmp_path / "o.extxyz") == pytest.approx(expected)


def test_limits_and_archives_are_those_of_packing(potential, expected, tmp_path):
    with using(Limits(atoms=3)), pytest.raises(DataError, match="--limit atoms="):
        predict_file(potential, tmp_path / "plain.extxyz", tmp_path / "o.extxyz")
    with using(Limits(structures=2)), pytest.raises(DataError, match="--limit structures="):
        predict_file(potential, tmp_path / "plain.extxyz", tmp_path / "o.extxyz")
    (tmp_path / "a.zip").write_bytes(b"PK")
    for source, said in ((tmp_path / "a.zip", "is an archive"), (tmp_path, "is a folder")):
        with pytest.raises(DataError, match=said):
            predict_file(potential, source, tmp_path / "o.extxyz")


def test_a_file_whose_name_says_nothing_is_given_to_ase(potential, images, tmp_path):
    write(tmp_path / "structure", images[0], format="traj")
    assert predict_file(potential, tmp_path / "structure", tmp_path / "o.extxyz") == (1, [])


def test_an_unreadable_structure_can_be_left_out(potential, images, tmp_path):
    write(tmp_path / "a.extxyz", images)
    lines = (tmp_path / "a.extxyz").read_text().splitlines(keepends=True)
    lines[8] = "Cu 1 two 3\n"
    (tmp_path / "a.extxyz").write_text("".join(lines))
    with pytest.raises(DataError, match=r"structure 1 \(counted from 0\): cannot be read.*--skip-invalid"):
        predict_file(potential, tmp_path / "a.extxyz", tmp_path / "o.extxyz")
    written, skipped = predict_file(potential, tmp_path / "a.extxyz", tmp_path / "o.extxyz", skip_invalid=True)
    assert (written, [one.position for one in skipped]) == (2, [1])


def full(rng):
    """Atoms with everything that files hold."""
    atoms = bulk("Cu", cubic=True)[:3]
    atoms.rattle(0.1, rng=rng)
    atoms.set_tags([1, 2, 3])
    atoms.set_initial_magnetic_moments([1.0, 2.0, 3.0])
    atoms.set_momenta(rng.normal(size=(3, 3)))
    own = {"energy": 1.0, "free_energy": 0.9, "forces": np.ones((3, 3)), "stress": np.arange(6.0)}
    said = {"magmoms": np.arange(3.0), "charges": np.arange(3.0) / 7, "dipole": np.array([0, 0, 0.5]), "magmom": 1.5}
    atoms.calc = SinglePointCalculator(atoms, **own, **said)
    return atoms


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.db", "a.json", "a.aselmdb"])
def test_every_reader_keeps_what_the_file_said(potential, rng, tmp_path, name):
    atoms = full(rng)
    if name.endswith(("db", "json")):
        with connect(tmp_path / name) as database:
            database.write(atoms, key_value_pairs={"tag": "x"}, data={"v": np.arange(3), "text": 'two\nlines "a" b\\c'})
    else:
        atoms.info |= {"tag": "x", "v": np.arange(3), "flag": True}
        atoms.arrays["fixed"] = np.array([True, False, True])
        write(tmp_path / name, atoms)
    structure = next(iter(reader_of(tmp_path / name).read(tmp_path / name, 0, None)))
    assert {*structure.per_atom} >= {"tags", "initial_magmoms", "momenta"}
    assert {"v", "dipole"}.isdisjoint(to_ase(structure).arrays)
    predict_file(potential, tmp_path / name, tmp_path / "o.extxyz")
    written = read(tmp_path / "o.extxyz")
    for key in ("magmoms", "charges", "dipole", "magmom"):
        np.testing.assert_allclose(written.calc.results[key], atoms.calc.results[key], atol=1e-7)
    for key in ("tags", "initial_magmoms", "momenta"):
        np.testing.assert_allclose(written.arrays[key], atoms.arrays[key], atol=1e-7)
    assert written.arrays["tags"].dtype.kind == "i"
    assert written.info["tag"] == "x"
    assert np.array_equal(written.info["v"], [0, 1, 2])
    assert written.info["source_free_energy"] == 0.9
    if name == "a.extxyz":
        assert written.arrays["fixed"].tolist() == [True, False, True]
    if name.endswith(("db", "json")):
        assert written.info["text"] == 'two\nlines "a" b\\c'
        again = next(iter(reader_of(tmp_path / "o.extxyz").read(tmp_path / "o.extxyz", 0, None)))
        assert again.info["text"] == written.info["text"]


def test_kcal_in_a_schnetpack_database_reach_nothing_that_is_written(potential, images, tmp_path):
    with connect(tmp_path / "spk.db") as database:
        database.metadata = {"_distance_unit": "Ang", "_property_unit_dict": {"free_energy": "kcal/mol"}}
        for atoms in images:
            database.write(atoms, data={"free_energy": np.array([1.0])})
    predict_file(potential, tmp_path / "spk.db", tmp_path / "o.extxyz")
    assert float(np.squeeze(read(tmp_path / "o.extxyz").info["source_free_energy"])) == pytest.approx(kcal / mol)
