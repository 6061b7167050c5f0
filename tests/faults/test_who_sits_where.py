"""Files that do not say which element sits on which site: refused, where ASE takes the first or the type's number."""

from __future__ import annotations

import pytest
from ase import Atoms
from ase.io import read as read_with_ase

import matscale
from matscale.core.data.sources.find import read
from matscale.core.data.sources.pack import pack
from matscale.core.errors import DataError

CIF = """data_x
_cell_length_a 4
_cell_length_b 4
_cell_length_c 4
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""
ORDERED = "Ni1 Ni 0 0 0 1.0\nO1 O 0.5 0.5 0.5 1.0\n"
DUMP = """ITEM: TIMESTEP
0
ITEM: NUMBER OF ATOMS
2
ITEM: BOX BOUNDS pp pp pp
0 4
0 4
0 4
ITEM: ATOMS id {column} x y z
1 {first} 0 0 0
2 {second} 2 2 2
"""
PDB = """CRYST1    4.000    4.000    4.000  90.00  90.00  90.00 P 1
ATOM      1  C1  ALA A   1       0.000   0.000   0.000  {0}  0.00           C
ATOM      2  N   ALA A   1       2.000   2.000   2.000  {0}  0.00           N
END
"""


@pytest.mark.parametrize("sites", ["Ni1 Ni 0 0 0 0.6\nCu1 Cu 0 0 0 0.4\n", "Ni1 Ni 0 0 0 0.5\n"])
def test_a_site_with_several_elements_or_none_is_refused(tmp_path, sites):
    path = tmp_path / "a.cif"
    path.write_text(CIF + sites)
    with pytest.raises(DataError, match=r"partly occupied site: .*an occupancy of .*write an ordered structure"):
        list(read(path))
    with pytest.raises(DataError, match="structure 0: partly occupied site"):
        matscale.batch(read_with_ase(path))
    (tmp_path / "b.cif").write_text(CIF + ORDERED)
    manifest = pack([path, tmp_path / "b.cif"], tmp_path / "out").manifest
    assert (manifest.n_structures, [source.rejected for source in manifest.sources]) == (1, [1, 0])


def test_half_an_atom_of_a_pdb_is_refused(tmp_path):
    (tmp_path / "a.pdb").write_text(PDB.format("0.50"))
    with pytest.raises(DataError, match=r"partly occupied site: .*an occupancy of 0\.5"):
        list(read(tmp_path / "a.pdb"))
    for whole in ("1.00", "0.00"):
        (tmp_path / "b.pdb").write_text(PDB.format(whole))
        assert next(read(tmp_path / "b.pdb")).formula == "CN"


def test_types_of_atoms_are_no_elements(tmp_path):
    path = tmp_path / "a.traj.lammpstrj"
    path.write_text(DUMP.format(column="type", first=1, second=2))
    reader = matscale.core.inference.predict.reader_for(path)
    with pytest.raises(DataError, match=r"types of atoms, but without their elements.*dump_modify ID element"):
        list(reader.read(path, 0, None))
    path.write_text(DUMP.format(column="element", first="Ni", second="Cu"))
    assert next(reader.read(path, 0, None)).formula == "CuNi"


def test_other_values_called_occupancy_are_not_touched():
    atoms = Atoms("Ni", cell=[3, 3, 3], pbc=True, info={"occupancy": "full"})
    assert matscale.batch(atoms).n_atoms == 1
