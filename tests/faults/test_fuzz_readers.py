"""Every reader against changed files: structures, or an error of matscale's; never another exception, crash or hang."""

from __future__ import annotations

import gzip
import json
import warnings
import zlib
from io import StringIO

import lmdb
import numpy as np
import pytest
from ase.db import connect
from ase.io import write
from ase.io.extxyz import write_xyz

from fuzzing import attack, n_inputs
from matscale.core.data.sources.find import reader
from matscale.core.data.sources.labels import Keys, Unusable, attach
from matscale.core.data.sources.limits import Limits, using
from matscale.core.data.sources.reader import to_ase
from matscale.core.data.sources.screen import screen
from matscale.core.data.store.shard import arrays_of
from matscale.core.errors import ConfigError
from matscale.core.inference.predict import Prediction, labelled
from matscale.plugins.readers import aselmdb, pymatgen_json

SMALL = Limits(seconds=20)


def used(frames):
    """What packing does with frames."""
    kept = []
    for frame in frames:
        try:
            if isinstance(frame, Unusable):
                raise frame
            attach(frame, Keys())
            screen(frame)
        except Unusable as fault:
            str(fault)
            continue
        kept.append(frame)
    if kept:
        arrays_of(kept, [0] * len(kept))
    return kept


@pytest.fixture
def atoms(structures):
    return [s.to_ase() for s in structures(2)]


def attack_file(path, sounds, n):
    """Changed contents of a file, read by the reader that knows it."""
    known = reader({".db": "ase-db", ".json": "ase-db", ".aselmdb": "aselmdb"}.get(path.suffix, "extxyz"))

    def use(content):
        path.write_bytes(content)
        with using(SMALL), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            known.count(path)
            return used(known.read(path, 0, None))

    attack(sounds, use, n)


def test_extxyz(atoms, tmp_path):
    atoms[0].info |= {"config_type": "bulk", "weights": np.arange(3.0), "note": 'say "a b"', "flag": True}
    atoms[1].arrays["magmoms"] = np.ones(len(atoms[1]))
    write(tmp_path / "a.extxyz", atoms)
    plain = (tmp_path / "a.extxyz").read_bytes()
    with_numbers = b'2\nProperties=Z:I:1:pos:R:3:forces:R:3 energy=-1 pbc="F F F"\n1 0 0 0 1 1 1\n8 0 0 1 -1 -1 -1\n'
    attack_file(tmp_path / "a.extxyz", [plain, with_numbers], n_inputs(150, 0.5))


def test_compressed_extxyz(atoms, tmp_path):
    write(tmp_path / "a.extxyz", atoms)
    content = gzip.compress((tmp_path / "a.extxyz").read_bytes(), mtime=0)
    attack_file(tmp_path / "a.extxyz.gz", [content], n_inputs(40, 0.05))


def test_pymatgen_json(tmp_path):
    site = {"species": [{"element": "Nb", "occu": 1}], "abc": [0.5, 0.25, 0]}
    structure = {
        "@module": "pymatgen.core.structure",
        "lattice": {"matrix": np.diag([3.0] * 3).tolist()},
        "sites": [site],
    }
    entry = {"structure": structure, "outputs": {"energy": -1.5, "forces": [[0, 0, 1]], "stress": [1, 2, 3, 4, 5, 6]}}

    def use(content):
        (tmp_path / "a.json").write_bytes(content)
        pymatgen_json.matches(tmp_path / "a.json")
        return used(pymatgen_json.read(tmp_path / "a.json", 0, None))

    attack([json.dumps([entry, entry]).encode()], use, n_inputs(300, 0.3))


def test_rows_of_aselmdb():
    arrays = {
        "numbers": [1, 8],
        "positions": [[0, 0, 0], [0, 0, 1.5]],
        "cell": np.diag([9] * 3).tolist(),
        "pbc": [1] * 3,
    }
    old = {
        **arrays,
        "energy": -1.5,
        "forces": [[0, 0, -1], [0, 0, 1]],
        "stress": [1, 2, 3, 4, 5, 6],
        "data": {"a": 1},
    }
    new = {k: {"__ndarray__": [list(np.shape(v)), "float64", np.ravel(v).tolist()]} for k, v in arrays.items()}
    new["key_value_pairs"] = {"trajectory": "t", "virial": {"__ndarray__": [[6], "float64", [1, 2, 3, 0, 0, 0]]}}

    def use(content):
        return used([aselmdb._row(zlib.compress(content), "a.aselmdb id 1")])

    def row(content):
        frame = use(content)
        if not frame:
            raise ConfigError("left out")  # counted apart from what was read

    attack([json.dumps(old).encode(), json.dumps(new).encode()], row, n_inputs(300, 0.3))


def test_aselmdb(tmp_path):
    row = zlib.compress(b'{"numbers":[1],"positions":[[0,0,0]],"cell":[[9,0,0],[0,9,0],[0,0,9]],"pbc":[1,1,1]}')
    environment = lmdb.open(str(tmp_path / "sound"), subdir=False, map_size=1 << 20, lock=False)
    with environment, environment.begin(write=True) as transaction:
        for number in range(1, 30):
            transaction.put(b"%d" % number, row)
        transaction.put(b"nextid", zlib.compress(b"30"))
        transaction.put(b"deleted_ids", zlib.compress(b"[3, 4]"))
    attack_file(tmp_path / "a.aselmdb", [(tmp_path / "sound").read_bytes()], n_inputs(8, 0.002))


@pytest.mark.parametrize("suffix", [".json", ".db"])
def test_ase_databases(atoms, tmp_path, suffix):
    with connect(tmp_path / f"sound{suffix}", append=False) as database:
        for each in atoms:
            database.write(each, key_value_pairs={"tag": "x"}, data={"spectrum": [1.0, 2.0]})
    content = (tmp_path / f"sound{suffix}").read_bytes()
    attack_file(tmp_path / f"a{suffix}", [content], n_inputs(25, 0.01))


@pytest.mark.parametrize("name", ["POSCAR", "a.cif", "a.traj", "a.xsf", "a.cube", "a.gen", "a.pdb", "a.cfg"])
def test_other_formats_of_ase(atoms, tmp_path, name):
    warnings.simplefilter("ignore")
    for each in atoms:
        each.calc = None
        each.pbc = True
    write(tmp_path / name, atoms[0], **({"data": np.ones((2, 2, 2))} if name == "a.cube" else {}))
    known, content = reader("ase"), (tmp_path / name).read_bytes()

    def use(changed):
        (tmp_path / name).write_bytes(changed)
        with using(SMALL):
            return used(known.read(tmp_path / name, 0, None))

    attack([content], use, n_inputs(8, 0.004))


def test_what_predict_reads_and_writes(atoms, tmp_path):
    write(tmp_path / "a.extxyz", atoms)
    content = (tmp_path / "a.extxyz").read_bytes()

    def use(changed):
        (tmp_path / "a.extxyz").write_bytes(changed)
        with using(SMALL):
            frames = list(reader("extxyz").read(tmp_path / "a.extxyz", 0, None))
        file = StringIO()
        for frame in frames:
            if not isinstance(frame, Unusable):
                write_xyz(file, labelled(to_ase(frame), Prediction(1.0, np.zeros((len(frame), 3)), None)))
        return frames

    attack([content], use, n_inputs(15, 0.01))
