"""Small files that announce or unpack to gigabytes: refused, within the address space of a small process."""

from __future__ import annotations

import io
import lzma
import subprocess
import sys
import tarfile
import zlib

import lmdb
import numpy as np
import pytest

from matscale.core.data.graph import Graph
from matscale.core.data.named.download import extract
from matscale.core.data.neighbors import neighbors
from matscale.core.data.sources.find import read, reader
from matscale.core.data.sources.limits import Limits, using
from matscale.core.errors import ConfigError, DataError

ATOM = "H 0 0 0\n"
BOUND = 1 << 30
"""Bytes of address space that reading may add to what the imports take."""

PROGRAM = """
import resource, sys
from pathlib import Path
from matscale.core.data.sources.find import reader_of
from matscale.core.data.sources.labels import Unusable
from matscale.core.errors import ConfigError, DataError
path = Path(sys.argv[1])
found = reader_of(path)
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[2]),) * 2)
try:
    n = found.count(path)
    frames = list(found.read(path, 0, None))
    print("frames", n, [str(frame) if isinstance(frame, Unusable) else len(frame) for frame in frames])
except DataError as error:
    print("refused", error)
"""


def outcome(path):
    command = [sys.executable, "-c", PROGRAM, str(path), str(BOUND)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def compressed(path, head, size):
    """An .xz of `head` and `size` zeros, in as many streams as it takes."""
    path.write_bytes(lzma.compress(head) + lzma.compress(b"0" * (1 << 24), preset=0) * (size >> 24))
    return path


def write_rows(path, rows):
    environment = lmdb.open(str(path), subdir=False, map_size=1 << 26, lock=False)
    with environment, environment.begin(write=True) as transaction:
        for key, value in rows.items():
            transaction.put(str(key).encode(), zlib.compress(value, level=1))
    return path


def test_an_endless_line_in_a_compressed_file_is_refused(tmp_path):
    path = compressed(tmp_path / "bomb.extxyz.xz", b"1\n", 1 << 31)
    assert path.stat().st_size < 500_000
    said = outcome(path)
    assert said.startswith("refused")
    assert "more than 32 MiB" in said
    assert "--limit structure=128MiB" in said


def test_an_announced_billion_of_atoms_is_refused(tmp_path):
    (tmp_path / "a.extxyz").write_text("1000000000\n\n" + ATOM)
    said = outcome(tmp_path / "a.extxyz")
    assert "a.extxyz: structure 0" in said
    assert "1e+09 atoms" in said


def test_a_nextid_of_three_hundred_million_is_refused(tmp_path):
    said = outcome(write_rows(tmp_path / "a.aselmdb", {"nextid": b"300000000"}))
    assert said.startswith("refused")
    assert "a.aselmdb: 'nextid' or 'deleted_ids' is damaged" in said


def test_a_row_of_255_mb_is_refused(tmp_path):
    row = b'{"numbers": [' + b"1," * (255 << 19) + b"1]}"
    said = outcome(write_rows(tmp_path / "a.aselmdb", {1: row, "nextid": b"2"}))
    assert "inflates beyond 32 MiB" in said


def test_small_structures_of_a_file_of_any_length_are_read(tmp_path):
    """Limits are per structure: 20,000 of them come through a limit of 100 bytes each."""
    (tmp_path / "a.extxyz").write_text(("1\n\n" + ATOM) * 20_000)
    with using(Limits(structure=100, atoms=1)):
        assert reader("extxyz").count(tmp_path / "a.extxyz") == 20_000
        assert sum(1 for _ in read(tmp_path / "a.extxyz")) == 20_000


def test_a_limit_can_be_raised(tmp_path):
    (tmp_path / "a.extxyz").write_text("3\n\n" + 3 * ATOM)
    with using(Limits(structure=20)), pytest.raises(DataError, match="--limit structure="):
        list(read(tmp_path / "a.extxyz"))
    with using(Limits.parse(["structure=1kB"])):
        assert [len(each) for each in read(tmp_path / "a.extxyz")] == [3]


def test_more_structures_than_the_limit_are_refused(tmp_path):
    (tmp_path / "a.extxyz").write_text(3 * ("1\n\n" + ATOM))
    with using(Limits(structures=2)), pytest.raises(DataError, match="structures=6"):
        reader("extxyz").count(tmp_path / "a.extxyz")


def archive(path, sizes):
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for number, size in enumerate(sizes):
            member = tarfile.TarInfo(f"{number}.extxyz")
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))
    return path


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(unpacked=10_000), "--limit unpacked="),
        (Limits(members=2), "--limit members="),
    ],
)
def test_an_archive_beyond_a_limit_is_refused_and_nothing_stays(tmp_path, limits, said):
    path = archive(tmp_path / "a.tar.gz", [5000, 5000, 5000])
    with using(limits), pytest.raises(DataError, match=said):
        extract(path, tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["a.tar.gz"]
    extract(path, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_an_archive_that_grows_two_hundredfold_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("matscale.core.data.named.download.FREE", 1 << 16)
    path = archive(tmp_path / "a.tar.gz", [1 << 20] * 8)
    with pytest.raises(DataError, match=r"a\.tar\.gz: unpacks to .* times its size.*--limit expansion="):
        extract(path, tmp_path / "out")
    with using(Limits(expansion=2000)):
        extract(path, tmp_path / "out")


def test_an_archive_larger_than_the_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 9000}))
    with pytest.raises(DataError, match=r"its disk has 8\.789 KiB left"):
        extract(archive(tmp_path / "a.tar.gz", [5000, 5000]), tmp_path / "out")


@pytest.mark.parametrize(
    ("pbc", "rule"),
    [
        *((pbc, Graph.radius(1e9)) for pbc in ((True, True, True), (True, True, False), (True, False, False))),
        ((True, True, False), Graph.nearest(1e9, 20)),
    ],
)
def test_a_cutoff_that_reaches_billions_of_images_is_refused(pbc, rule):
    with pytest.raises(DataError, match=r"about .* edges within 1e\+09 Å; the limit is 1e\+08. Choose a shorter"):
        neighbors(np.zeros((1, 3)), 4 * np.eye(3), pbc, rule)


def test_a_cell_of_hundredths_of_an_angstrom_is_refused():
    with pytest.raises(DataError, match=r"about .* edges within 6 Å"):
        neighbors(np.zeros((1, 3)), 0.02 * np.eye(3), [True] * 3, Graph.radius(6.0))


@pytest.mark.parametrize("cutoff", [float("inf"), float("nan"), 0.0])
def test_a_cutoff_that_is_no_length_is_refused(cutoff):
    for make in (Graph.radius, lambda length: Graph.nearest(length, 20)):
        with pytest.raises(ConfigError, match=r"cutoff = (inf|nan|0\.0) Å"):
            make(cutoff)
