"""Units, weights, free energies and isolated atoms that a file states are used, or named as ignored."""

from __future__ import annotations

import json
import zlib

import lmdb
import numpy as np
import pytest
from ase.db import connect
from ase.units import Bohr, GPa, Hartree, kcal, mol
from click.testing import CliRunner

from matscale.cli import main
from matscale.core.data.sources import units
from matscale.core.data.sources.labels import Keys
from matscale.core.data.sources.pack import pack
from matscale.core.data.store.manifest import Manifest
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError, DataError

KCAL = kcal / mol
CELL = 'Lattice="4 0 0 0 4 0 0 0 4"'


def extxyz(path, *comments, atoms="Al 0 0 0 0.1 0 0\nO 2 0 0 -0.1 0 0\n"):
    columns = "Properties=species:S:1:pos:R:3:forces:R:3"
    path.write_text("".join(f"{len(atoms.splitlines())}\n{CELL} {columns} {c}\n{atoms}" for c in comments))
    return path


def packed(tmp_path, *sources, **options):
    manifest = pack(sources, tmp_path / "out", **options).manifest
    return PackedDataset.open(tmp_path / "out").structure(0), manifest


def notes(manifest):
    return {note: n for source in manifest.sources for note, n in source.notes.items()}


def schnetpack(path, structure, property_units, metadata=(), energy=1.0, forces=1.0, length=1.0):
    atoms = structure.to_ase()
    atoms.calc = None
    atoms.set_cell(atoms.cell / length, scale_atoms=True)
    with connect(path, append=False) as database:
        data = {"energy": np.array([structure.energy / energy]), "forces": structure.forces / forces}
        database.write(atoms, data=data)
        database.metadata = {"_property_unit_dict": property_units, "atomrefs": {}, **dict(metadata)}
    return path


@pytest.mark.parametrize("suffix", ["db", "json", "aselmdb"])
def test_units_in_the_metadata_of_a_database_are_converted(tmp_path, structures, suffix):
    (given,) = structures(1)
    stated = {"energy": "kcal/mol", "forces": "kcal/mol/Ang"}
    source = schnetpack(tmp_path / f"a.{suffix}", given, stated, {"_distance_unit": "Ang"}, KCAL, KCAL)
    got, manifest = packed(tmp_path, source)
    assert got.energy == pytest.approx(given.energy)
    assert np.allclose(got.forces, given.forces)
    assert notes(manifest) == {
        "energy: kcal/mol converted to eV (by 0.043364104)": 1,
        "forces: kcal/mol/Ang converted to eV/Å (by 0.043364104)": 1,
    }


def test_atomic_units_convert_the_geometry_as_well(tmp_path, structures):
    (given,) = structures(1)
    stated = {"energy": "Hartree", "forces": "Ha/Bohr"}
    metadata = {"_distance_unit": "Bohr", "atomrefs": {"energy": [0.0, -0.5]}}
    source = schnetpack(tmp_path / "a.db", given, stated, metadata, Hartree, Hartree / Bohr, Bohr)
    got, manifest = packed(tmp_path, source)
    assert got.energy == pytest.approx(given.energy)
    assert np.allclose(got.forces, given.forces)
    assert np.allclose(got.positions, given.positions)
    assert np.allclose(got.cell, given.cell)
    assert any(note.startswith("positions and cell: Bohr converted to Å") for note in notes(manifest))
    assert any(note.startswith("atomrefs of the file's metadata are ignored") for note in notes(manifest))


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"energy": "parsec", "forces": "eV/Ang"}, r"energy is in 'parsec', a unit that matscale does not know"),
        ({"energy": "eV", "forces": "kcal/mol"}, r"forces is in 'kcal/mol', which is not a unit of forces"),
        ({"energy": "kcal/mol"}, r"energy is in 'kcal/mol', and nothing states the unit of forces"),
        ({"energy": "MeV", "forces": "eV/Å"}, r"energy is in 'MeV'"),
    ],
)
def test_a_unit_that_is_unknown_or_missing_is_refused_with_what_was_found(tmp_path, structures, stated, says):
    source = schnetpack(tmp_path / "a.db", structures(1)[0], stated)
    with pytest.raises(DataError, match=rf"a\.db.*{says}.*--unit"):
        pack([source], tmp_path / "out")


def test_a_unit_that_the_user_gives_counts_more_than_the_file(tmp_path, structures):
    (given,) = structures(1)
    source = schnetpack(tmp_path / "a.db", given, {"energy": "kcal/mol"}, (), 1e-3, 1e-3)
    got, _ = packed(tmp_path, source, keys=Keys.parse([], units=["energy=meV", "forces=meV/Å"]))
    assert got.energy == pytest.approx(given.energy)
    assert np.allclose(got.forces, given.forces)


@pytest.mark.parametrize("given", ["enrgy=eV", "energy", "energy=parsec", "forces=eV"])
def test_a_wrong_unit_option_is_a_usage_error(given):
    with pytest.raises(ConfigError, match="--unit"):
        Keys.parse([], units=[given])


@pytest.mark.parametrize(
    ("comment", "energy", "force", "stress"),
    [
        ("energy=2 energy_unit=kcal/mol forces_unit=kcal/mol/Ang", 2 * KCAL, 0.1 * KCAL, None),
        ('energy=2 units="kcal/mol, Angstrom"', 2 * KCAL, 0.1 * KCAL, None),
        ("energy=2 units=eV", 2, 0.1, None),
        ('energy=2 stress="1 2 3 0 0 0" stress_unit=GPa', 2, 0.1, GPa),
        (
            'energy=2 virial="1 2 3 0 0 0" energy_unit=Ha force_unit=Ha/Bohr',
            2 * Hartree,
            0.1 * Hartree / Bohr,
            -Hartree / 64,
        ),
        ("energy=2 energy_unit=eV/atom", 4, 0.1, None),
        ("REF_energy=2 REF_energy_unit=meV force_units=eV/Å", 2e-3, 0.1, None),
    ],
)
def test_units_in_the_comment_line_are_converted(tmp_path, comment, energy, force, stress):
    got, _ = packed(tmp_path, extxyz(tmp_path / "a.extxyz", comment))
    assert got.energy == pytest.approx(energy)
    assert got.forces[0, 0] == pytest.approx(force)
    assert stress is None or got.stress[0, 0] == pytest.approx(stress)


def test_a_length_unit_in_the_comment_line_converts_the_cell_before_a_virial_is_divided_by_it(tmp_path):
    comment = 'energy=2 length_unit=nm forces_unit=eV/nm virial="1 2 3 0 0 0"'
    atoms = "Al 0 0 0 1 0 0\nO 0.2 0 0 -1 0 0\n"
    source = extxyz(tmp_path / "a.extxyz", comment, atoms=atoms)
    source.write_text(source.read_text().replace("4 0 0 0 4 0 0 0 4", ".4 0 0 0 .4 0 0 0 .4"))
    got, _ = packed(tmp_path, source)
    assert got.stress[0, 0] == pytest.approx(-1 / 64)
    assert got.forces[0, 0] == pytest.approx(0.1)


@pytest.mark.parametrize("text", ["furlong", "real", "eV furlong"])
def test_a_text_of_units_that_is_not_understood_is_refused(tmp_path, text):
    with pytest.raises(DataError, match=rf"structure 0: units = '{text}'"):
        pack([extxyz(tmp_path / "a.extxyz", f'energy=2 units="{text}"')], tmp_path / "out")


@pytest.mark.parametrize(
    "text", ["kJ mol^-1 Å^-1", "kJ/mol/Angstrom", "kJ/(mol Å)", "(kJ/mol)/Å", "kJ·mol⁻¹·Å⁻¹", "KJ/MOL/ang"]
)
def test_a_unit_is_understood_in_every_way_of_writing_it(text):
    assert units.factor("forces", text) == pytest.approx(0.0103642696)


@pytest.mark.parametrize(
    "given", ["energyunit", "EnergyUnit", "energyUnits", "Energy-Unit", "energy.unit", "unit_energy"]
)
def test_a_unit_is_found_however_its_name_is_joined(given):
    assert units.stated({given: "meV"}) == {"energy": "meV"}


@pytest.mark.parametrize(
    "comment",
    [
        *("unit_system=atomic", "input_unit=au", 'data_units="Hartree, Bohr"', "calculator_units=Ha,Bohr"),
        *("energy_in=Hartree positions_in=Bohr", "dimension_energy=Ha dimension_cell=Bohr"),
        *('units_energy_forces="Ha Ha/Bohr" lattice_in=Bohr', 'energy_and_length_units="Ha, Bohr"'),
        *("energy_given_in=Ha coordinates_given_in=Bohr", "energy_scale=Ha length_scale=Bohr", 'uom="Ha, Bohr"'),
        *("e_unit=Ha f_unit=Ha/Bohr r_unit=Bohr", "E_unit=Ha F_unit=Ha/Bohr R_unit=Bohr", "eunits=Ha lunits=Bohr"),
        *(
            "total_energy_unit=Ha coords_unit=Bohr",
            "potential_energy_unit=Ha xyz_unit=Bohr",
            "unit_E=Ha dist_unit=Bohr",
        ),
    ],
)
def test_units_under_other_peoples_names_are_converted(tmp_path, comment):
    got, manifest = packed(tmp_path, extxyz(tmp_path / "a.extxyz", f"energy=2 {comment}"))
    assert got.energy == pytest.approx(2 * Hartree)
    assert got.forces[0, 0] == pytest.approx(0.1 * Hartree / Bohr)
    assert got.cell[0, 0] == pytest.approx(4 * Bohr)
    assert any("converted to eV" in note for note in notes(manifest))


@pytest.mark.parametrize(
    "stated",
    [
        "field_unit=Hartree",
        "box_unit=nm",
        "unit_style=real",
        "QM_unit=kcal/mol",
        "energy_note=Ha",
        "units_energy_forces=Ha",
        "computed_in=Ha",
    ],
)
def test_a_unit_that_may_be_that_of_a_label_is_refused(tmp_path, stated):
    with pytest.raises(DataError, match=r"(not clear|not say|not understand).*--unit energy=eV"):
        pack([extxyz(tmp_path / "a.extxyz", f"energy=2 {stated}")], tmp_path / "out")
    units_given = Keys.parse((), units=["energy=kcal/mol", "forces=eV/Å"])
    assert packed(tmp_path, tmp_path / "a.extxyz", keys=units_given)[0].energy == pytest.approx(2 * KCAL)


@pytest.mark.parametrize("stated", ["energy_in=furlong", "dimension_energy=parsec"])
def test_a_statement_that_is_not_understood_is_refused(tmp_path, stated):
    with pytest.raises(DataError, match=r"a unit that matscale does not know.*--unit energy=UNIT"):
        pack([extxyz(tmp_path / "a.extxyz", f"energy=2 {stated}")], tmp_path / "out")


@pytest.mark.parametrize("words", ["lattice_dimension=2D", "dimension=3", "energy_kind=total", "unit_cell_type=cubic"])
def test_words_that_state_no_unit_change_nothing(tmp_path, words):
    got, _ = packed(tmp_path, extxyz(tmp_path / "a.extxyz", f"energy=2 {words}"))
    assert (got.energy, got.cell[0, 0]) == (2, 4)


def test_an_energy_without_a_unit_beside_forces_in_another_one_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nothing states the unit of energy .*--unit energy=UNIT"):
        pack([extxyz(tmp_path / "a.extxyz", "energy=2 forces_unit=Ha/Bohr")], tmp_path / "out")
    assert packed(tmp_path, extxyz(tmp_path / "b.extxyz", "energy=2 forces_unit=eV/nm"))[0].energy == 2


@pytest.mark.parametrize(
    "stated", ["gap=1 gap_unit=Ha", "time_unit=au", "ecut=40 ecut_unit=Ry", "cutoff_unit=Bohr", "field_unit=eV"]
)
def test_units_of_other_values_convert_no_label(tmp_path, stated):
    got, _ = packed(tmp_path, extxyz(tmp_path / "a.extxyz", f"energy=2 {stated}"))
    assert (got.energy, got.cell[0, 0]) == (2, 4)


def test_a_unit_inside_the_description_of_a_label_is_found(tmp_path, structures):
    (one,) = structures(1)
    described = {"energy": {"unit": "Hartree"}, "forces": {"units": "Hartree/Bohr", "shape": [-1, 3]}}
    source = schnetpack(tmp_path / "a.db", one, {}, described, Hartree, Hartree / Bohr)
    got, _ = packed(tmp_path, source)
    assert got.energy == pytest.approx(one.energy)
    assert np.allclose(got.forces, one.forces)


def test_words_that_hold_unit_state_none():
    assert units.stated({"formula_units": 4, "asymmetric_unit": "x", "unitcell": 3, "unit_cell": "cubic"}).keys() <= {
        "formula",
        "asymmetric",
    }


def test_a_free_energy_that_differs_is_said(tmp_path):
    manifest = packed(tmp_path, extxyz(tmp_path / "a.extxyz", "energy=2 free_energy=1.9", "energy=2 free_energy=2"))[1]
    ((note, n),) = notes(manifest).items()
    assert "energy is used, and free_energy differs" in note
    assert n == 1


def test_weights_and_config_types_are_named_as_ignored_and_zero_can_be_filtered(tmp_path):
    source = extxyz(
        tmp_path / "a.extxyz", "energy=2 config_weight=0.0 config_type=surface", "energy=2 config_weight=1.0"
    )
    found = notes(packed(tmp_path, source)[1])
    assert found["config_weight is ignored: every structure has the same weight in the loss"] == 1
    assert any("--filter 'config_weight!=0'" in note for note in found)
    assert any(note.startswith("config_type is ignored") for note in found)
    manifest = pack([source], tmp_path / "some", filter=["config_weight!=0"]).manifest
    assert (manifest.n_structures, manifest.filtered) == (1, 1)


@pytest.mark.parametrize("box", [20, 50, 500])
def test_isolated_atoms_give_energies_and_leave_the_dataset(tmp_path, box):
    source = extxyz(tmp_path / "a.extxyz", "energy=2")
    for symbol, energy in (("Al", -0.5), ("O", -0.7)):
        alone = extxyz(tmp_path / "b", f"energy={energy} config_type=IsolatedAtom", atoms=f"{symbol} 0 0 0 0 0 0\n")
        with open(source, "a") as file:
            file.write(alone.read_text().replace("4 0 0 0 4 0 0 0 4", f"{box} 0 0 0 {box} 0 0 0 {box}"))
    manifest = packed(tmp_path, source)[1]
    assert manifest.isolated_atoms == {"Al": -0.5, "O": -0.7}
    assert (manifest.n_structures, manifest.rejected) == (1, 0)
    shown = CliRunner().invoke(main, ["data", "info", str(tmp_path / "out")]).output
    assert "isolated atoms [eV], stored apart: Al -0.5, O -0.7" in shown


def test_two_energies_of_one_isolated_atom_are_refused(tmp_path):
    twice = [f"energy={energy} config_type=isolated_atom" for energy in (-0.5, -0.6)]
    alone = extxyz(tmp_path / "b.extxyz", *twice, atoms="Al 0 0 0 0 0 0\n")
    with pytest.raises(DataError, match=r"Two isolated atoms of Al .* -0.5 eV .*structure 0.* -0.6 eV"):
        pack([extxyz(tmp_path / "a.extxyz", "energy=2"), alone], tmp_path / "out")


def test_a_manifest_from_before_there_were_notes_still_opens(tmp_path):
    pack([extxyz(tmp_path / "a.extxyz", "energy=2")], tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    values = json.loads(path.read_text())
    for key in ("isolated_atoms", "passed_over", "checksum"):
        del values[key]
    del values["sources"][0]["notes"]
    path.write_text(json.dumps(values))
    assert Manifest.read(tmp_path / "out").isolated_atoms == {}


def test_damaged_metadata_of_an_lmdb_are_refused(tmp_path):
    environment = lmdb.open(str(tmp_path / "a.aselmdb"), subdir=False, map_size=1 << 20, lock=False)
    with environment, environment.begin(write=True) as transaction:
        transaction.put(b"nextid", zlib.compress(b"1"))
        transaction.put(b"metadata", b"x")
    with pytest.raises(DataError, match="'metadata' is damaged"):
        pack([tmp_path / "a.aselmdb"], tmp_path / "out")


def test_pack_info_and_refs_name_the_weights_and_isolated_atoms_that_they_ignore(tmp_path):
    cell = 'Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3'
    frames = [
        f"2\n{cell} energy={-k} config_weight={k % 2}.0\n{a} 0 0 0\n{b} 2 0 {k / 10}\n"
        for k, (a, b) in enumerate([("Cu", "Cu"), ("Ni", "Ni"), ("Cu", "Ni")] * 4)
    ]
    frames += [f"1\n{cell} energy=-0.5 config_type=IsolatedAtom\nCu 0 0 0\n"]
    (tmp_path / "a.extxyz").write_text("".join(frames))
    commands = [
        ["pack", str(tmp_path / "a.extxyz"), "-o", str(tmp_path / "out")],
        ["info", str(tmp_path / "out")],
        ["refs", str(tmp_path / "out")],
    ]
    for command in commands:
        done = CliRunner().invoke(main, ["data", *command])
        assert done.exit_code == 0, done.output
        assert "stored apart: Cu -0.5 (references are fitted without them)" in done.stdout
        if command[0] != "refs":
            assert "config_weight is ignored: every structure has the same weight in the loss" in done.stdout
