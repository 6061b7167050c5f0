"""Readers: every format gives the structures that were written, one at a time, and says what it cannot read."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import zlib
from itertools import islice

import lmdb
import numpy as np
import pytest
from ase.db import connect
from ase.io import read as ase_read
from ase.io import write as ase_write

from matscale.core.data.sources.find import find_sources, read, reader, reader_of
from matscale.core.data.sources.labels import Unusable
from matscale.core.data.sources.limits import Limits, using
from matscale.core.data.structure import full_to_voigt
from matscale.core.errors import ConfigError, DataError


def assert_same(given, got):
    assert got.atomic_numbers.tolist() == given.atomic_numbers.tolist()
    assert got.pbc.tolist() == given.pbc.tolist()
    for name in ("positions", "cell", "forces", "stress"):
        assert np.allclose(getattr(got, name), getattr(given, name), atol=2e-8), name
    assert got.energy == pytest.approx(given.energy, abs=1e-7)


def write_extxyz(path, structures):
    plain = path.with_name("plain.extxyz")
    ase_write(plain, [s.to_ase() for s in structures], format="extxyz")
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    text = plain.read_text()
    plain.unlink()
    with opener(path, "wt") as file:
        file.write(text)
    return path


def write_lmdb(path, structures, **options):
    with connect(str(path), append=False, **options) as database:
        for s in structures:
            database.write(s.to_ase(), data={"sid": "a1", "trajectory": "t9"})
    return path


def old_rows(structures):
    """fairchem's dialect until April 2025: nested lists, written here by hand."""
    for s in structures:
        yield {
            "numbers": s.atomic_numbers.tolist(),
            "positions": s.positions.tolist(),
            "cell": s.cell.tolist(),
            "pbc": s.pbc.tolist(),
            "energy": s.energy,
            "forces": s.forces.tolist(),
            "stress": full_to_voigt(s.stress).tolist(),
            "key_value_pairs": {},
            "data": {"trajectory": "t9"},
        }


def write_raw(path, values):
    """An LMDB file with these values under ids from 1, and whatever else has a name."""
    environment = lmdb.open(str(path), subdir=False, map_size=1 << 26, lock=False)
    with environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            packed = value if isinstance(value, bytes) else zlib.compress(json.dumps(value).encode())
            transaction.put(str(key).encode(), packed)
    return path


def write_old_lmdb(path, structures):
    rows = dict(enumerate(old_rows(structures), start=1))
    return write_raw(path, {**rows, "nextid": len(rows) + 1})


FORMATS = {
    "a.extxyz": write_extxyz,
    "a.extxyz.gz": write_extxyz,
    "a.xyz.xz": write_extxyz,
    "new.aselmdb": write_lmdb,
    "old.aselmdb": write_old_lmdb,
    "a.db": write_lmdb,
    "a.json": write_lmdb,
    "a.traj": lambda path, structures: ase_write(path, [s.to_ase() for s in structures]),
}


@pytest.mark.parametrize(("name", "write"), FORMATS.items(), ids=FORMATS)
def test_a_file_gives_back_what_was_written(structures, tmp_path, name, write):
    given = structures(25)
    write(tmp_path / name, given)
    got = list(read(tmp_path / name))
    assert len(got) == 25
    for a, b in zip(given, got):
        assert_same(a, b)
    if "lmdb" in name:
        assert {s.group for s in got} == {"t9"}


@pytest.mark.parametrize(("name", "write"), FORMATS.items(), ids=FORMATS)
def test_a_file_can_be_read_in_pieces(structures, tmp_path, name, write):
    given = structures(25)
    write(tmp_path / name, given)
    path, responsible = find_sources([tmp_path / name])[0]
    assert responsible.count(path) in (25, None)
    pieces = [(0, 7), (7, 8), (15, 20), (3, 5), (24, None)]  # forwards, then back
    for start, stop in pieces:
        part = list(responsible.read(path, start, stop))
        assert [len(s) for s in part] == [len(s) for s in given[start:stop]]


def test_frames_of_real_data_agree_with_ases_own_reader(shared):
    path = shared / "data" / "mattersim_mptrj_random" / "all.extxyz.xz"
    with lzma.open(path, "rt") as file:
        text = "".join(islice(file, 3000))
    ours = list(islice(read(path), 20))
    lines = iter(text.splitlines(keepends=True))
    for s in ours:
        n = int(next(lines))
        assert n == len(s)
        frame = f"{n}\n" + "".join(islice(lines, n + 1))
        atoms = ase_read(io.StringIO(frame), format="extxyz")
        assert np.array_equal(atoms.positions, s.positions)
        assert np.array_equal(atoms.cell.array, s.cell)
        assert np.array_equal(atoms.get_forces(), s.forces)
        assert atoms.get_potential_energy() == s.energy
        assert np.array_equal(atoms.get_stress(), full_to_voigt(s.stress))
        assert s.group == atoms.info["mptrj_traj_id"]


def test_a_folder_of_mixed_sources_is_read_in_the_order_of_names(structures, tmp_path):
    write_extxyz(tmp_path / "b.extxyz", structures(3))
    write_old_lmdb(tmp_path / "a.aselmdb", structures(2))
    (tmp_path / "sub").mkdir()
    write_extxyz(tmp_path / "sub" / "c.xyz.gz", structures(1))
    for note in ("README.md", "LICENSE", "a.aselmdb-lock", "run.log", "metadata.npz", "settings.json", "Thumbs.db"):
        (tmp_path / note).write_text('{"a": "note"}')
    (tmp_path / ".git").mkdir()
    write_extxyz(tmp_path / ".git" / "d.extxyz", structures(1))
    assert [p.name for p, _ in find_sources([tmp_path])] == ["a.aselmdb", "b.extxyz", "c.xyz.gz"]
    assert len(list(read(tmp_path))) == 6


def test_a_path_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        find_sources([tmp_path / "nothing.xyz"])
    with pytest.raises(DataError, match="no file of a known format"):
        find_sources([tmp_path])
    (tmp_path / "a.parquet").write_text("x")
    with pytest.raises(DataError, match=r"no reader knows this format.*extxyz"):
        reader_of(tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="Did you mean 'extxyz'"):
        reader("extxzy")


def test_an_extxyz_file_that_was_cut_off_is_refused_with_the_place(structures, tmp_path):
    path = write_extxyz(tmp_path / "a.extxyz", structures(5))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match=r"a.extxyz: structure 4 .*ends within"):
        list(read(path))
    path = write_extxyz(tmp_path / "b.extxyz.xz", structures(5))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="cannot be read"):
        list(read(path))


@pytest.mark.parametrize("head", ["-1", "1000000000000", "2.5"])
def test_an_absurd_number_of_atoms_is_refused_at_once(tmp_path, head):
    (tmp_path / "a.xyz").write_text(f"{head}\nLattice\nCu 0 0 0\n")
    with pytest.raises(DataError, match=r"a.xyz: structure 0 .*cannot be read"):
        list(read(tmp_path / "a.xyz"))


def test_an_extxyz_frame_that_cannot_be_parsed_does_not_hide_the_next(structures, tmp_path):
    path = write_extxyz(tmp_path / "a.extxyz", structures(3))
    blocks = path.read_text().splitlines()
    blocks[2] = blocks[2].replace(blocks[2].split()[0], "Qq", 1)
    path.write_text("\n".join(blocks) + "\n")
    frames = list(reader("extxyz").read(path, 0, None))
    assert [isinstance(f, Unusable) for f in frames] == [True, False, False]
    assert frames[0].reason == "unknown element"


def test_deleted_rows_and_gaps_of_an_lmdb_are_passed_over(structures, tmp_path):
    rows = dict(enumerate(old_rows(structures(12)), start=1))
    del rows[3], rows[11]
    write_raw(tmp_path / "a.aselmdb", {**rows, "nextid": 13, "deleted_ids": [3, 11], "metadata": {"x": 1}})
    got = list(read(tmp_path / "a.aselmdb"))
    assert [len(s) for s in got] == [len(s) for k, s in enumerate(structures(12), start=1) if k not in (3, 11)]


def test_nan_of_both_dialects_is_a_missing_label(structures, tmp_path):
    (row,) = old_rows(structures(1))
    null, token = {**row, "forces": [[None] * 3] * len(row["numbers"])}, {**row, "energy": float("nan")}
    write_raw(tmp_path / "a.aselmdb", {1: null, 2: token, "nextid": 3})
    first, second = read(tmp_path / "a.aselmdb")
    assert first.forces is None
    assert first.energy == row["energy"]
    assert second.energy is None
    assert second.forces is not None


def test_a_value_that_inflates_beyond_the_limit_is_refused(structures, tmp_path):
    (row,) = old_rows(structures(1))
    bomb = zlib.compress(b'{"numbers": "' + b"0" * (1 << 22) + b'"}')
    assert len(bomb) < 10_000
    write_raw(tmp_path / "a.aselmdb", {1: bomb, 2: row, "nextid": 3})
    with using(Limits.parse(["structure=1MiB"])):
        first, second = reader("aselmdb").read(tmp_path / "a.aselmdb", 0, None)
        assert "inflates beyond 1 MiB" in str(first)
        assert len(second) == len(row["numbers"])
        with pytest.raises(DataError, match="inflates beyond"):
            list(read(tmp_path / "a.aselmdb"))


@pytest.mark.parametrize("value", [b"not zlib", zlib.compress(b"{"), zlib.compress(b"[]"), zlib.compress(b"{}")])
def test_a_damaged_row_is_unusable_and_the_others_are_read(structures, tmp_path, value):
    (row,) = old_rows(structures(1))
    write_raw(tmp_path / "a.aselmdb", {1: value, 2: row, "nextid": 3})
    first, second = reader("aselmdb").read(tmp_path / "a.aselmdb", 0, None)
    assert isinstance(first, Unusable)
    assert first.reason == "unreadable"
    assert len(second) == len(row["numbers"])


def test_a_file_that_is_no_ase_database_is_refused(tmp_path):
    (tmp_path / "a.aselmdb").write_bytes(b"x" * 10_000)
    with pytest.raises(DataError, match="not an LMDB file"):
        list(read(tmp_path / "a.aselmdb"))
    write_raw(tmp_path / "b.aselmdb", {"1": {}})
    with pytest.raises(DataError, match="without the key 'nextid'"):
        list(read(tmp_path / "b.aselmdb"))
    (tmp_path / "c.db").write_bytes(b"SQLite format 3\0" + b"x" * 10_000)
    with pytest.raises(DataError, match="not an ASE database"):
        list(read(tmp_path / "c.db"))


def test_an_lmdb_file_that_was_cut_off_is_an_error_and_not_a_crash(structures, tmp_path):
    path = write_old_lmdb(tmp_path / "a.aselmdb", structures(200))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 // 4096 * 4096])
    with pytest.raises(DataError, match="Download it again"):
        list(read(path))
