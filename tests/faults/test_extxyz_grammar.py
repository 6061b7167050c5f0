"""Comment lines of extended XYZ: every form of the grammar is read, and what is damaged is refused by name."""

from __future__ import annotations

import contextlib
import lzma

import numpy as np
import pytest
from ase.io.extxyz import key_val_str_to_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from matscale.core.data.sources.find import read, reader
from matscale.core.data.sources.labels import Unusable
from matscale.core.data.structure import full_to_voigt
from matscale.core.errors import DataError
from matscale.plugins.readers.comment import parse_comment

STRESS = np.array([[0.01, 0.04, 0.05], [0.04, 0.02, 0.06], [0.05, 0.06, 0.03]])
VOIGT = "0.01 0.02 0.03 0.06 0.05 0.04"
NESTED = "[[0.01, 0.04, 0.05], [0.04, 0.02, 0.06], [0.05, 0.06, 0.03]]"
CELL = 'Lattice="4 0 0 0 4 0 0 0 4"'


def frame(comment, atoms="Al 0 0 0\nO 2 0 0\n"):
    return f"2\n{comment}\n{atoms}"


def read_one(tmp_path, comment, atoms="Al 0 0 0\nO 2 0 0\n"):
    (tmp_path / "a.extxyz").write_text(frame(comment, atoms), encoding="utf-8")
    (one,) = read(tmp_path / "a.extxyz")
    return one


@pytest.mark.parametrize("key", ["stress", "virial", "virials", "REF_stress", "dft_virial"])
@pytest.mark.parametrize("form", ['"{}"', "{{{}}}", "[{}]", "'{}'"])
def test_six_numbers_are_a_voigt_tensor_under_every_name_and_in_every_bracket(tmp_path, key, form):
    numbers = np.array(VOIGT.split(), float) * (-64 if "virial" in key else 1)
    text = form.format((", " if form[0] == "[" else " ").join(map(str, numbers)))
    assert np.allclose(read_one(tmp_path, f"{CELL} {key}={text}").stress, STRESS)


@pytest.mark.parametrize("form", [NESTED, NESTED.replace(" ", ""), '"' + " ".join(map(str, STRESS.ravel())) + '"'])
def test_nine_numbers_are_a_tensor_in_a_row_or_nested(tmp_path, form):
    assert np.allclose(read_one(tmp_path, f"{CELL} stress={form} energy=-1").stress, STRESS)


VALUES = {
    "a=1": 1,
    "a=-2.5e-3": -2.5e-3,
    "a=1.5D+02": 150.0,
    "a=.5": 0.5,
    "a = 3": 3,
    "a= 3": 3,
    "a=": "",
    "a": True,
    "a=T": True,
    "a=false": False,
    "a=TRUE": True,
    'a="x y"': "x y",
    "a='x y'": "x y",
    r'a="say \"hi\" \\ there"': 'say "hi" \\ there',
    r'a="two\nlines"': "two\nlines",
    'a="k=v"': "k=v",
    'a="[1, 2"': "[1, 2",
    'a="1"': 1,
    "a={1}": 1,
    "a=[x, y]": ["x", "y"],
    'a=["x y", z]': ["x y", "z"],
    "a={x y}": ["x", "y"],
    "a=http://x.org?q=1": "http://x.org?q=1",
    "a=Ångström": "Ångström",
    "a=mp_1_2": "mp_1_2",
    '"a"=2': 2,
    "uid=007": "007",
    "a=007": 7,
    "a=123456789012345678901234567890": 123456789012345678901234567890,
    'a={"b": {"c": 1}}': '"b": {"c": 1}',
}


@pytest.mark.parametrize(("line", "value"), VALUES.items(), ids=VALUES)
def test_a_value_has_the_type_that_the_grammar_gives_it(line, value):
    got = parse_comment(f"first=1 {line} last=2" if line != "a=" else f"first=1 {line}")
    assert next(v for k, v in got.items() if k in ("a", "uid")) == value
    assert got["first"] == 1
    assert line == "a=" or got["last"] == 2


ARRAYS = {
    'a="1 2 3"': [1, 2, 3],
    "a={1 2.5}": [1.0, 2.5],
    "a=[1, 2]": [1, 2],
    "a=[1,2]": [1, 2],
    "a=[7]": [7],
    "a=1,2,3": [1, 2, 3],
    "a=[[1, 2], [3, 4]]": [[1, 2], [3, 4]],
    "a=[[T, F]]": [[True, False]],
    'a="T F T"': [True, False, True],
    'a="1 nan"': [1.0, np.nan],
    'a="_JSON [[1, 2]]"': [[1, 2]],
}


@pytest.mark.parametrize(("line", "value"), ARRAYS.items(), ids=ARRAYS)
def test_an_array_is_read_in_the_old_style_and_in_the_new(line, value):
    got = parse_comment(f"{line} last=2")
    assert np.array_equal(got["a"], np.array(value), equal_nan=np.array(value).dtype.kind == "f")
    assert got["a"].dtype == np.array(value).dtype
    assert got["last"] == 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('a="1 2', "and is not closed"),
        ("a=[1, 2", "and is not closed"),
        ("a={1 2", "and is not closed"),
        ("a=[[1, 2], [3]]", "rows of different lengths"),
        ("a=1 a=2", "given twice"),
        ('a="_JSON {"', "not valid JSON"),
    ],
)
def test_a_value_that_would_be_lost_refuses_the_structure(line, says):
    with pytest.raises(Unusable, match=says):
        parse_comment(line)


NUMBER = st.one_of(st.integers(-(2**62), 2**62), st.floats(allow_nan=False, allow_infinity=False)).map(str)
BARE = st.text("abcdefghijklmnopqrstuvwxyzABCDEFXYZ0123456789.+-:/;()é", min_size=1)
QUOTED = st.text(st.characters(codec="ascii", categories=("L", "N", "Zs")), min_size=1).filter(str.strip)
VALUE = st.one_of(
    NUMBER,
    st.lists(NUMBER, min_size=2, max_size=9).map(lambda parts: f'"{" ".join(parts)}"'),
    st.lists(NUMBER, min_size=2, max_size=9).map(lambda parts: f"{{{' '.join(parts)}}}"),
    st.sampled_from(["T", "F", "True", "false", '"T T F"']),
    BARE,
    QUOTED.map(lambda t: f'"{t}"'),
)


@given(st.dictionaries(st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}", fullmatch=True), VALUE, max_size=5))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_a_line_of_the_grammar_is_read_as_ase_reads_it(pairs):
    pairs = {key: value for key, value in pairs.items() if key not in ("stress", "virial", "Lattice")}
    line = " ".join(f"{key}={value}" for key, value in pairs.items())
    assert_as_ase(line)


def assert_as_ase(line):
    ours, theirs = parse_comment(line), key_val_str_to_dict(line)
    for key in ("Lattice", "stress", "virial"):
        if key in theirs:
            theirs[key] = theirs[key].ravel(order="F")
    assert list(ours) == list(theirs) or not line
    for key, value in ours.items():
        assert np.array_equal(value, theirs[key]), key
        assert np.asarray(value).dtype.kind == np.asarray(theirs[key]).dtype.kind, key


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=60))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_line_is_read_or_refused(line):
    with contextlib.suppress(Unusable):
        assert isinstance(parse_comment(line), dict)


def test_comment_lines_of_real_data_are_read_as_ase_reads_them(shared):
    n = 0
    for path in sorted((shared / "data").glob("*/*.extxyz.xz")):
        with lzma.open(path, "rt") as file:
            for _ in range(40):
                n_atoms = int(file.readline())
                assert_as_ase(file.readline().strip())
                for _ in range(n_atoms):
                    file.readline()
                n += 1
    assert n >= 300


@pytest.mark.parametrize(
    "text", ['"T T F"', "[T, T, F]", "[True,True,False]", "{T T F}", '"1 1 0"', "TTF", '"true true F"']
)
def test_periodic_axes_are_read_in_every_form(tmp_path, text):
    assert read_one(tmp_path, f'Lattice="4 0 0 0 4 0 0 0 4" pbc={text}').pbc.tolist() == [True, True, False]


def test_one_flag_stands_for_three_axes_and_other_words_are_refused(tmp_path):
    assert read_one(tmp_path, f"{CELL} pbc=F").pbc.tolist() == [False] * 3
    assert read_one(tmp_path, CELL).pbc.tolist() == [True] * 3
    assert read_one(tmp_path, "energy=1").pbc.tolist() == [False] * 3
    (tmp_path / "a.extxyz").write_text(frame(f"{CELL} pbc=periodic"))
    (fault,) = reader("extxyz").read(tmp_path / "a.extxyz", 0, None)
    assert "pbc = 'periodic'" in str(fault)


@pytest.mark.parametrize(
    "lattice",
    [
        'Lattice="1 2 3 0 4 5 0 0 6"',
        "Lattice=[[1, 2, 3], [0, 4, 5], [0, 0, 6]]",
        "lattice={1 2 3 0 4 5 0 0 6}",
        "Lattice=[1,2,3,0,4,5,0,0,6]",
    ],
)
def test_a_lattice_is_vector_by_vector(tmp_path, lattice):
    assert read_one(tmp_path, lattice).cell.tolist() == [[1, 2, 3], [0, 4, 5], [0, 0, 6]]
    assert read_one(tmp_path, 'Lattice="1 2 3"').cell.tolist() == np.diag([1.0, 2, 3]).tolist()


def test_exponents_of_fortran_are_read_in_columns(tmp_path):
    atoms = "Al 0 0 0 1.0D-1 0 0\nO 2.0d0 0 0 0 0 0\n"
    one = read_one(tmp_path, f"{CELL} properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5D+01", atoms)
    assert one.forces[0].tolist() == [0.1, 0, 0]
    assert one.positions[1].tolist() == [2, 0, 0]
    assert one.energy == -15


def test_columns_that_are_not_announced_are_noted(tmp_path):
    one = read_one(tmp_path, f"{CELL} energy=1", "Al 0 0 0 1 2 3\nO 2 0 0 1 2 3\n")
    assert any("3 columns per atom are not read" in note for note in one.notes)


@pytest.mark.parametrize("comment", [f"{CELL} energy", f"{CELL} energy=", f"{CELL} energy=T"])
def test_a_key_without_a_number_is_no_energy(tmp_path, comment):
    (tmp_path / "a.extxyz").write_text(frame(comment))
    with pytest.raises(Exception, match="not numeric"):
        list(read(tmp_path / "a.extxyz"))


def test_what_ase_writes_is_read_back(tmp_path, structures):
    from ase.io import write

    atoms = structures(1)[0].to_ase()
    atoms.info.update({"tag": 'a "b" c', "matrix": np.arange(4.0).reshape(2, 2), "words": ["x", "y z"], "flag": False})
    write(tmp_path / "a.extxyz", atoms)
    (one,) = read(tmp_path / "a.extxyz")
    assert one.info["tag"] == atoms.info["tag"]
    assert np.array_equal(one.info["matrix"], atoms.info["matrix"])
    assert one.info["words"] == ["x", "y z"]
    assert one.info["flag"] is False
    assert np.allclose(full_to_voigt(one.stress), atoms.get_stress())


@pytest.mark.parametrize("names", ["Species:S:1:Pos:R:3", "species:S:1:positions:R:3"])
def test_properties_without_species_or_pos_are_refused_with_the_columns(tmp_path, names):
    columns = ", ".join(names.split(":")[::3])
    with pytest.raises(DataError, match=f"Properties has the columns {columns}; species and pos are needed"):
        read_one(tmp_path, f"{CELL} Properties={names}")


def test_positions_that_are_announced_as_words_are_numbers_or_refused(tmp_path):
    properties = "Properties=Z:I:1:pos:S:3 energy=-1"
    assert read_one(tmp_path, properties, "1 0 0 0\n8 0 0 1\n").positions.dtype == np.float64
    with pytest.raises(DataError, match="could not convert"):
        read_one(tmp_path, properties, "1 0 0 x\n8 0 0 1\n")
