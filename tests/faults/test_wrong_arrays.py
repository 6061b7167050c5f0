"""Datasets whose digests are right and whose arrays are not, and manifests that say what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from matscale.core.data.graph import Graph
from matscale.core.data.store import edge_cache_build
from matscale.core.data.store.arrays import map_arrays, write_arrays
from matscale.core.data.store.edge_cache_build import build_cache
from matscale.core.data.store.manifest import Manifest, dataset_hash
from matscale.core.data.store.packed import PackedDataset, ShardWriter
from matscale.core.errors import DataError

GRAPH = Graph.radius(5.0)


@pytest.fixture
def dataset(structures, tmp_path):
    writer = ShardWriter(tmp_path / "data")
    writer.append(*structures(20))
    writer.finish()
    return tmp_path / "data"


def rewrite(dataset, change):
    """Change the arrays of the shard, and write a manifest that agrees with them."""
    path = dataset / "shard-00000.safetensors"
    arrays = {name: array.copy() for name, array in map_arrays(path).items()}
    arrays = change(arrays) or arrays
    digest = write_arrays(path, {name: [array] for name, array in arrays.items()})
    manifest = Manifest.read(dataset)
    shards = [manifest.shards[0].model_copy(update={"sha256": digest})]
    manifest.model_copy(update={"shards": shards, "hash": dataset_hash(shards)}).write(dataset)


def put(name, place, value):
    def change(arrays):
        arrays[name][place] = value

    return change


def other(name, make):
    return lambda arrays: {**arrays, name: make(arrays[name])}


WRONG = {
    "pointers run backwards": (put("atom_ptr", 5, 0), "atom_ptr decreases"),
    "pointers far beyond": (put("atom_ptr", 5, 1 << 62), "atom_ptr decreases"),
    "pointers that overflow": (put("atom_ptr", slice(5, 8), [2**63 - 1, -(2**63), -1]), "atom_ptr decreases"),
    "pointers from -1": (put("atom_ptr", 0, -1), "atom_ptr begins at -1"),
    "pointers past the end": (put("atom_ptr", -1, 10**6), "holds|shape"),
    "pointers of another length": (other("atom_ptr", lambda a: a[:-1]), "holds|shape"),
    "no pointers": (other("atom_ptr", lambda a: a[:0]), "atom_ptr is"),
    "pointers of floats": (other("atom_ptr", lambda a: a.astype("f8")), "atom_ptr is float64"),
    "element 0": (put("atomic_numbers", 3, 0), "atomic number 0"),
    "element 119": (put("atomic_numbers", 3, 119), "atomic number 119"),
    "a position that is NaN": (put("positions", (9, 1), np.nan), "positions are not finite"),
    "infinite positions": (put("positions", (slice(9, 11), 1), [np.inf, -np.inf]), "positions are not finite"),
    "a cell that is infinite": (put("cell", (2, 0, 0), np.inf), "structure 2 .*cell is not finite"),
    "a force that is NaN": (put("forces", (0, 0), np.nan), "forces and has_forces disagree"),
    "an infinite energy": (put("energy", 4, np.inf), "structure 4 .*energy and has_energy disagree"),
    "a stress that is NaN": (put("stress", (4, 0, 1), np.nan), "stress and has_stress disagree"),
    "labels that are said to be missing": (put("has_forces", 7, 0), "structure 7 .*forces and has_forces disagree"),
    "a flag of 2": (put("pbc", (6, 1), 2), "structure 6 .*pbc is neither"),
    "a source that there is not": (put("source", 6, 1), "structure 6 .*number of sources: 1"),
    "a negative group": (put("group", 6, -5), "group is negative"),
    "whole numbers as positions": (other("positions", lambda a: a.astype("i8")), "positions is int64"),
    "flat positions": (other("positions", lambda a: a.reshape(-1)), "positions has shape"),
    "half of the cells": (other("cell", lambda a: a[::2]), "cell has shape"),
    "no forces": (lambda arrays: {k: v for k, v in arrays.items() if k != "forces"}, "no array 'forces'"),
}


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize(("change", "complaint"), WRONG.values(), ids=WRONG)
def test_wrong_arrays_are_refused_though_the_digest_is_right(dataset, change, complaint, in_memory):
    rewrite(dataset, change)
    with pytest.raises(DataError, match=rf"(?s)shard-00000\.safetensors.*({complaint})"):
        PackedDataset.open(dataset, in_memory=in_memory).batch(range(20))


def test_labels_that_are_missing_are_no_fault(dataset):
    def change(arrays):
        arrays["has_forces"][3] = arrays["has_energy"][4] = arrays["has_stress"][5] = 0
        start, stop = arrays["atom_ptr"][3:5]
        arrays["forces"][start:stop], arrays["energy"][4], arrays["stress"][5] = np.nan, np.nan, np.nan
        arrays["forces"][stop] = 1e308  # sums beyond what a float can hold, and is finite

    rewrite(dataset, change)
    assert PackedDataset.open(dataset).has("forces").sum() == 19


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F64", "shape": [1 << 32, 1 << 32], "data_offsets": [0, 0]}},  # a product of 0 in 64 bits
        {"a": {"dtype": "F64", "shape": [-1, -1], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F64", "shape": [1.0], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F64", "shape": [1], "data_offsets": [-8, 0]}},
        {"a": {"dtype": "F64", "shape": [1], "data_offsets": ["0", "8"]}},
        {"a": {"dtype": "F64", "shape": [1], "data_offsets": [0]}},
        {"a": {"dtype": "F128", "shape": [1], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F64", "shape": [10**40], "data_offsets": [0, 8 * 10**40]}},
        {"a": 5},
        [],
    ],
    ids=str,
)
def test_a_header_that_cannot_be_is_a_value_error(tmp_path, header):
    text = json.dumps(header).encode()
    (tmp_path / "file").write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
    with pytest.raises(ValueError, match=r"header|does not fit|to unpack"):
        map_arrays(tmp_path / "file")


def test_a_header_that_is_nested_too_deep_is_a_value_error(tmp_path):
    text = b"[" * 100_000
    (tmp_path / "file").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ValueError, match="header"):
        map_arrays(tmp_path / "file")


MANIFESTS = {
    "a shard elsewhere": ("file", "../other/shard-00000.safetensors", "not the name of a file"),
    "a shard by its absolute path": ("file", "/elsewhere/shard-00000.safetensors", "not the name of a file"),
    "a shard with a backslash": ("file", "..\\shard", "not the name of a file"),
    "the folder itself": ("file", ".", "not the name of a file"),
    "the folder above": ("file", "..", "not the name of a file|is not a file"),
    "no name": ("file", "", "not the name of a file"),
    "a name with a zero": ("file", "a\0b", "not the name of a file"),
    "a name that is too long": ("file", "x" * 5000, "missing"),
    "a number as a name": ("file", 5, "file"),
    "fewer than no structures": ("n_structures", -20, "n_structures"),
    "10^15 structures": ("n_structures", 10**15, "too few for"),
    "10^30 structures": ("n_structures", 10**30, "n_structures"),
    "10^400 atoms": ("n_atoms", 10**400, "n_atoms"),
    "half an atom": ("n_atoms", 0.5, "n_atoms"),
}


def before_checksums(path: Path) -> dict:
    """Values of a manifest as they were written before there were checksums, and isolated atoms in it."""
    values = json.loads(path.read_text())
    del values["checksum"], values["isolated_atoms"]
    return values


@pytest.mark.parametrize(("key", "value", "complaint"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_says_what_cannot_be_is_refused(dataset, key, value, complaint):
    path = dataset / "manifest.json"
    values = before_checksums(path)
    values["shards"][0][key] = value
    if key != "file":
        values[key] = value
    if isinstance(value, int) and 0 < value < 1 << 53:
        shard = values["shards"][0]
        values["hash"] = dataset_hash([Manifest.read(dataset).shards[0].model_copy(update=shard)])
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=complaint) as refused:
        PackedDataset.open(dataset)
    assert str(dataset) in str(refused.value)


@pytest.mark.parametrize("twice", [True, False])
def test_a_manifest_without_shards_or_with_one_of_them_twice_is_refused(dataset, twice):
    manifest = Manifest.read(dataset)
    shards = manifest.shards * 2 if twice else []
    counts = {"n_structures": 20 * len(shards), "n_atoms": manifest.n_atoms * len(shards)}
    manifest.model_copy(update={"shards": shards, "hash": dataset_hash(shards), **counts}).write(dataset)
    with pytest.raises(DataError, match="names no shard, or one of them twice"):
        PackedDataset.open(dataset)


@pytest.mark.parametrize("key", ["statistics", "elements", "labels", "sources", "labels_by", "rejected"])
def test_a_number_of_the_manifest_does_not_change_in_silence(dataset, key):
    path = dataset / "manifest.json"
    values = json.loads(path.read_text())
    values[key] = {"rejected": 7, "labels_by": "someone", "sources": []}.get(key, {"H": 1})
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match="its checksum differs"):
        PackedDataset.open(dataset)


def test_a_manifest_that_was_written_before_there_were_checksums_still_opens(dataset):
    path = dataset / "manifest.json"
    path.write_text(json.dumps(before_checksums(path), indent=2))
    assert len(PackedDataset.open(dataset)) == 20


def test_a_hash_that_is_not_that_of_the_shards_is_refused(dataset):
    Manifest.read(dataset).model_copy(update={"hash": "0" * 64}).write(dataset)
    with pytest.raises(DataError, match="hash is not that of its shards"):
        PackedDataset.open(dataset)


EDGES = {
    "edge pointers run backwards": (put("edge_ptr", 3, 10**9), "edge_ptr decreases"),
    "edge pointers past the end": (put("edge_ptr", -1, 10**9), "neighbor is"),
    "other atoms": (put("atom_ptr", 1, 0), "atom_ptr is not that of the dataset"),
    "a neighbour outside": (put("neighbor", 0, 200), "outside its structure"),
    "too large a degree": (put("degree", 0, 200), "do not sum to its edges"),
    "shifts without a sign": (other("shift", lambda a: a.astype("u1")), "shift is"),
    "floats": (other("neighbor", lambda a: a.astype("f4")), "neighbor is"),
    "no degrees": (lambda arrays: {k: v for k, v in arrays.items() if k != "degree"}, "no array 'degree'"),
}


@pytest.mark.parametrize(("change", "complaint"), EDGES.values(), ids=EDGES)
def test_wrong_edges_are_found_anew_though_the_digest_is_right(dataset, change, complaint):
    before = PackedDataset.open(dataset).batch(range(20), GRAPH)
    folder = build_cache(PackedDataset.open(dataset), GRAPH).folder
    arrays = {name: array.copy() for name, array in map_arrays(folder / "edges-00000.safetensors").items()}
    arrays = change(arrays) or arrays
    digest = write_arrays(folder / "edges-00000.safetensors", {name: [array] for name, array in arrays.items()})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][0]["sha256"] = digest
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match=complaint):
        after = PackedDataset.open(dataset).batch(range(20), GRAPH)
    assert after.edge_index.equal(before.edge_index)
    with pytest.raises(DataError, match=complaint):
        PackedDataset.open(dataset).verify()
    with pytest.warns(UserWarning, match="found again"):
        build_cache(PackedDataset.open(dataset), GRAPH)
    PackedDataset.open(dataset).verify()


def test_edges_of_another_folder_are_not_read(dataset):
    folder = build_cache(PackedDataset.open(dataset), GRAPH).folder
    manifest = json.loads((folder / edge_cache_build.MANIFEST).read_text())
    manifest["files"][0]["file"] = "../../../elsewhere/edges-00000.safetensors"
    (folder / edge_cache_build.MANIFEST).write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match="is damaged .*elsewhere"):
        PackedDataset.open(dataset).batch(range(20), GRAPH)
