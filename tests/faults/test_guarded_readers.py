"""Readers whose libraries crash, loop, or fill the memory: a DataError with the file's name, and the caller lives."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import time
import zlib

import lmdb
import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from matscale.core.data.sources import guard
from matscale.core.data.sources.find import Unusable, reader
from matscale.core.data.sources.limits import Limits, using
from matscale.core.data.sources.reader import to_ase
from matscale.core.data.structure import Structure
from matscale.core.errors import ConfigError, DataError

ROW = zlib.compress(b'{"numbers": [1], "positions": [[0,0,0]], "cell": [[9,0,0],[0,9,0],[0,0,9]], "pbc": [1,1,1]}')


def write_lmdb(path, n=40):
    environment = lmdb.open(str(path), subdir=False, map_size=1 << 24, lock=False)
    with environment, environment.begin(write=True) as transaction:
        for number in range(1, n + 1):
            transaction.put(b"%d" % number, ROW)
        transaction.put(b"nextid", zlib.compress(b"%d" % (n + 1)))
    return path


# Programs for the guarded process: it takes any function by name.


def crash(path):
    yield "first"
    os.abort()


def loop(path):
    while True:
        pass
    yield


def swallow(path):
    yield np.ones(1 << 33, dtype=np.uint8)


def unpickle(path):
    yield pickle.loads(path.read_bytes())


def many(path, n):
    yield from range(n)


def here(name):
    return f"{__name__}:{name}"


@pytest.fixture
def file(tmp_path):
    (tmp_path / "some.file").write_bytes(pickle.dumps(random.Random))
    return tmp_path / "some.file"


def test_a_crash_is_an_error_with_the_files_name(file):
    with pytest.raises(DataError, match=r"some\.file: .* crashed \(SIGABRT\)"):
        list(guard.stream(here("crash"), file))


def test_an_endless_loop_is_ended(file):
    with using(Limits(seconds=1)), pytest.raises(DataError, match=r"some\.file: .* 1 s of processor time"):
        list(guard.stream(here("loop"), file))


def test_memory_is_limited(file):
    with using(Limits(memory=1 << 30)), pytest.raises(DataError, match=r"some\.file: .* more memory than 1 GiB"):
        list(guard.stream(here("swallow"), file))


def test_nothing_is_unpickled(file):
    with pytest.raises(DataError, match=r"some\.file: .* unpickle an object"):
        list(guard.stream(here("unpickle"), file))


def test_a_reader_that_is_not_read_to_its_end_leaves_no_answers_behind(file):
    assert next(guard.stream(here("many"), file, 10**6)) == 0
    assert list(guard.stream(here("many"), file, 3)) == [0, 1, 2]


def test_one_process_serves_one_file_after_another(file):
    list(guard.stream(here("many"), file, 1))
    (child,) = guard._idle[os.getpid()][-1:]
    list(guard.stream(here("many"), file, 1))
    assert guard._idle[os.getpid()][-1] is child


def test_atoms_come_through_as_they_are(tmp_path):
    atoms = Atoms("H2O", positions=np.random.default_rng(0).normal(size=(3, 3)), cell=[4, 5, 6], pbc=[1, 0, 1])
    atoms.info["note"] = "one"
    atoms.arrays["weights"] = np.array([0.1, 0.2, 0.3])
    atoms.set_tags([1, 2, 3])
    write(tmp_path / "a.extxyz", [atoms] * 2)
    first, second = map(to_ase, reader("ase").read(tmp_path / "a.extxyz", 0, None))
    assert first == second
    assert first.positions.tolist() == np.round(atoms.positions, 8).tolist()
    assert (first.info["note"], first.get_tags().tolist()) == ("one", [1, 2, 3])
    assert first.arrays["weights"].tolist() == [0.1, 0.2, 0.3]


def test_a_changed_byte_of_an_lmdb_file_never_ends_the_process(tmp_path):
    """The pages' headers and pointers are where LMDB trusts the file."""
    sound, draw = write_lmdb(tmp_path / "sound.aselmdb").read_bytes(), random.Random(3)
    changed, outcomes = tmp_path / "changed.aselmdb", set()
    places = [draw.randrange(4096 * page, 4096 * page + 64) for page in range(len(sound) // 4096) for _ in range(4)]
    for place in places:
        content = bytearray(sound)
        content[place] ^= 1 << draw.randrange(8)
        changed.write_bytes(content)
        try:
            frames = list(reader("aselmdb").read(changed, 0, None))
            outcomes.add("read")
            assert all(isinstance(frame, Structure | Unusable) for frame in frames)
        except DataError as error:
            outcomes.add("refused" if "changed.aselmdb" in str(error) else str(error))
    assert outcomes == {"read", "refused"}


def test_packing_a_file_that_crashes_lmdb_ends_with_exit_3(shared, tmp_path):
    file = shared / "cases" / "50-lmdb-flipped-byte" / "flipped.aselmdb"
    command = [sys.executable, "-m", "matscale", "data", "pack", str(file), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "flipped.aselmdb" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_reading_process_ends_with_its_caller(file):
    code = f"""
import os, pathlib, sys
from matscale.core.data.sources import guard
next(guard.stream("faults_loop:many", pathlib.Path({str(file)!r}), 10**9))
"""
    (file.parent / "faults_loop.py").write_text("def many(path, n):\n    yield from range(n)\n")
    code += "print(os.popen('ps --ppid %d -o pid=' % os.getpid()).read().split()[0], flush=True); os._exit(9)"
    environment = os.environ | {"PYTHONPATH": str(file.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    child = int(done.stdout)
    for _ in range(600):
        if not os.path.exists(f"/proc/{child}"):
            break
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{child}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [("memroy=1GB", "Did you mean 'memory'"), ("memory", "expected NAME=VALUE"), ("atoms=-1", "positive number")],
)
def test_a_limit_that_is_none_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        Limits.parse([given])


def test_limits_are_read_as_people_write_them():
    limits = Limits.parse(["memory=8GiB", "atoms=5M", "structure=1e6", "unpacked=1.5TB", "seconds=9"])
    assert limits == Limits(memory=8 << 30, atoms=5_000_000, structure=1_000_000, unpacked=1_500_000_000_000, seconds=9)
