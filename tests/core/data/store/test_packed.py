"""The packed dataset gives back exactly what was put in, however it was cut into files."""

from __future__ import annotations

import json
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from matscale.core.data.store.packed import PackedDataset, ShardWriter
from matscale.core.data.store.shard import map_shard
from matscale.core.errors import ConfigError, DataError

LAYOUTS = {"one shard": {}, "many shards": {"piece_bytes": 3000, "shard_bytes": 8000}}


@pytest.fixture(params=[False, True], ids=["mapped", "in memory"])
def in_memory(request):
    return request.param


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS)
def layout(request):
    return request.param


def assert_same(a, b):
    assert np.array_equal(a.atomic_numbers, b.atomic_numbers)
    assert np.array_equal(a.positions, b.positions)
    assert np.array_equal(a.cell, b.cell)
    assert np.array_equal(a.pbc, b.pbc)
    for label in ("energy", "forces", "stress"):
        x, y = getattr(a, label), getattr(b, label)
        assert (x is None) == (y is None)
        assert x is None or np.array_equal(x, y)


def with_gaps(structures):
    """Some labels missing, one structure without periodicity."""
    structures[0] = replace(structures[0], energy=None)
    structures[1] = replace(structures[1], forces=None)
    structures[2] = replace(structures[2], stress=None, cell=np.zeros((3, 3)), pbc=np.zeros(3, dtype=bool))
    structures[3] = replace(structures[3], pbc=np.array([True, False, True]))
    return structures


def test_unpacking_gives_the_same_bits(structures, pack_into, layout, in_memory):
    given = with_gaps(structures(60))
    dataset = pack_into(given, in_memory=in_memory, **layout)
    assert len(dataset) == 60
    assert (len(dataset.manifest.shards) > 1) == bool(layout)
    for a, b in zip(given, dataset):
        assert_same(a, b)


def test_a_batch_holds_the_structures_in_the_order_that_was_asked_for(structures, pack_into, layout, in_memory, rng):
    given = with_gaps(structures(60))
    dataset = pack_into(given, in_memory=in_memory, **layout)
    index = [*rng.permutation(60)[:17].tolist(), 2, 2, 0]
    batch = dataset.batch(index, dtype=torch.float64)
    assert batch.index.tolist() == index
    for i, member in zip(index, batch.split()):
        s = given[i]
        assert member.atomic_numbers.tolist() == s.atomic_numbers.tolist()
        assert torch.equal(member.positions, torch.from_numpy(s.positions))
        assert torch.equal(member.cell[0], torch.from_numpy(s.cell))
        assert member.pbc[0].tolist() == s.pbc.tolist()
        for label in ("energy", "forces", "stress"):
            got, value = getattr(member, label), getattr(s, label)
            got = got if label == "forces" else got[0]
            if value is None:
                assert got.isnan().all()
            else:
                assert torch.equal(got, torch.as_tensor(value, dtype=torch.float64))


def test_the_energy_of_a_single_precision_batch_stays_double(structures, pack_into):
    dataset = pack_into([replace(structures(1)[0], energy=-12345.678901234)])
    batch = dataset.batch([0])
    assert batch.positions.dtype == batch.forces.dtype == batch.cell.dtype == torch.float32
    assert batch.energy.item() == -12345.678901234


def test_columns_follow_the_order_of_packing(structures, pack_into, layout):
    given = with_gaps(structures(40))
    dataset = pack_into(given, **layout)
    assert dataset.n_atoms.tolist() == [len(s) for s in given]
    assert dataset.has("forces").tolist() == [s.forces is not None for s in given]
    assert np.isnan(dataset.energies()[0])
    assert dataset.energies([5, 3]).tolist() == [given[5].energy, given[3].energy]
    assert dataset.composition([7]).nonzero()[1].tolist() == sorted(set(given[7].atomic_numbers.tolist()))
    assert dataset.composition().sum(axis=1).tolist() == dataset.n_atoms.tolist()
    same = [s.group == given[4].group for s in given]
    assert (dataset.groups == dataset.groups[4]).tolist() == same


def test_the_manifest_counts_what_is_there(structures, pack_into):
    given = with_gaps(structures(40))
    manifest = pack_into(given).manifest
    numbers = np.concatenate([s.atomic_numbers for s in given])
    assert manifest.n_structures == 40
    assert manifest.n_atoms == len(numbers) == sum(manifest.elements.values())
    assert manifest.elements["Cu"] == (numbers == 29).sum()
    assert manifest.labels == {"energy": 39, "forces": 39, "stress": 39}
    forces = np.concatenate([s.forces for s in given if s.forces is not None])
    measured = manifest.statistics["all"]["forces_component"]
    assert measured["count"] == forces.size
    assert measured["std"] == pytest.approx(forces.std(), rel=1e-12)
    assert sum(count for _, count in measured["bins"]) == forces.size


def test_the_hash_depends_on_the_contents_and_not_on_the_folder(structures, pack_into):
    first = pack_into(structures(20), "a")
    assert pack_into(structures(20), "b").hash == first.hash
    assert pack_into(structures(20, seed=1), "c").hash != first.hash


def test_any_safetensors_library_opens_a_shard(structures, pack_into):
    dataset = pack_into(structures(10))
    path = dataset.path / dataset.manifest.shards[0].file
    ours, theirs = map_shard(path), load_file(path)
    assert set(ours) == set(theirs)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_single_precision_halves_positions_and_forces_only(structures, pack_into):
    given = structures(10)
    dataset = pack_into(given, precision="float32")
    s = dataset.structure(4)
    assert np.array_equal(s.positions, given[4].positions.astype(np.float32))
    assert s.energy == given[4].energy
    assert np.array_equal(s.cell, given[4].cell)
    with pytest.raises(ConfigError, match="float16"):
        pack_into(given, "other", precision="float16")


def test_a_dataset_travels_to_another_process_without_its_maps(structures, pack_into):
    dataset = pack_into(structures(10))
    dataset.batch([1])
    sent = ForkingPickler.dumps(dataset)
    assert len(sent) < 20_000
    assert_same(ForkingPickler.loads(sent).structure(3), dataset.structure(3))


def test_an_index_outside_is_refused(structures, pack_into):
    dataset = pack_into(structures(5))
    with pytest.raises(IndexError, match="no structure 5 in a dataset of 5"):
        dataset.batch([0, 5])
    with pytest.raises(IndexError, match="structure -1"):
        dataset.structure(-1)


def test_a_folder_without_a_dataset_is_named(tmp_path):
    with pytest.raises(DataError, match=r"matscale data pack"):
        PackedDataset.open(tmp_path)


def test_a_dataset_of_another_format_is_refused(structures, pack_into):
    path = pack_into(structures(3)).path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(DataError, match="format version 99"):
        PackedDataset.open(path.parent)


def test_a_flipped_bit_is_found_by_verify(structures, pack_into):
    dataset = pack_into(structures(30))
    dataset.verify()
    path = dataset.path / dataset.manifest.shards[0].file
    contents = bytearray(path.read_bytes())
    contents[-100] ^= 1
    path.write_bytes(contents)
    with pytest.raises(DataError, match="SHA-256"):
        PackedDataset.open(dataset.path).verify()


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_truncated_shard_is_an_error_and_not_a_crash(structures, pack_into, keep):
    dataset = pack_into(structures(30))
    path = dataset.path / dataset.manifest.shards[0].file
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"shard-00000.*(whole shard|cannot be mapped)"):
        PackedDataset.open(dataset.path).batch([0])


def test_a_shard_of_another_dataset_is_refused(structures, pack_into):
    one, other = pack_into(structures(30), "a"), pack_into(structures(20), "b")
    name = one.manifest.shards[0].file
    (one.path / name).write_bytes((other.path / name).read_bytes())
    with pytest.raises(DataError, match="manifest says 30"):
        PackedDataset.open(one.path).structure(0)


def test_a_writer_does_not_touch_a_dataset_that_is_there(structures, pack_into):
    dataset = pack_into(structures(3))
    with pytest.raises(DataError, match="holds a packed dataset already"):
        ShardWriter(dataset.path)


def test_until_the_writer_finishes_there_is_no_dataset(structures, tmp_path):
    writer = ShardWriter(tmp_path / "d", piece_bytes=1000)
    writer.append(*structures(20))
    with pytest.raises(DataError, match="no packed dataset"):
        PackedDataset.open(tmp_path / "d")
    writer.finish()
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["manifest.json", "shard-00000.safetensors"]


def test_the_elements_of_some_structures_are_found_a_chunk_at_a_time(structures, pack_into, monkeypatch):
    monkeypatch.setattr("matscale.core.data.store.packed._CHUNK", 3)
    given = structures(20)
    dataset, some = pack_into(given), [17, 2, 3, 11, 5]
    assert dataset.elements(some) == tuple(sorted({int(z) for k in some for z in given[k].atomic_numbers}))
    assert dataset.elements([]) == ()
