"""Cached edges are the edges that would be computed, and never those of other data."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from forks import FORKS
from heard import Heard
from matscale.core.data import neighbors as module
from matscale.core.data.graph import Graph
from matscale.core.data.loader import BatchBudget, Loader
from matscale.core.data.store import edge_cache_build
from matscale.core.data.store.arrays import map_arrays
from matscale.core.data.store.edge_cache import open_cache
from matscale.core.data.store.edge_cache_build import build_cache
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import DataError
from matscale.core.files import DiskError

GRAPHS = [Graph.radius(5.0), Graph.nearest(8.0, 5), Graph.nearest(8.0, 5, strict=False)]
MANY_SHARDS = {"piece_bytes": 3000, "shard_bytes": 8000}


@pytest.fixture
def dataset(structures, pack_into):
    """Four shards; among the crystals a lone atom without neighbours and a molecule."""
    given = structures(60)
    given[0] = replace(given[4], positions=np.zeros((1, 3)), atomic_numbers=np.array([13]), forces=np.zeros((1, 3)))
    given[0] = replace(given[0], cell=np.zeros((3, 3)), pbc=np.zeros(3, bool))
    given[7] = replace(given[7], cell=np.zeros((3, 3)), pbc=np.zeros(3, bool))
    return pack_into(given, **MANY_SHARDS)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(edge_cache_build, "PIECE", 7)


def assert_same_edges(one, other):
    assert torch.equal(one.edge_index, other.edge_index)
    assert torch.equal(one.edge_shift, other.edge_shift)
    assert one.edge_index.dtype == other.edge_index.dtype
    assert one.edge_shift.dtype == other.edge_shift.dtype


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.key)
def test_cached_edges_are_those_that_are_computed(dataset, graph, in_memory, rng):
    some = rng.permutation(60)[:25]
    computed = dataset.batch(some, graph)
    build_cache(dataset, graph)
    cached = PackedDataset.open(dataset.path, in_memory=in_memory)
    assert open_cache(cached, graph) is not None
    assert_same_edges(cached.batch(some, graph), computed)
    assert computed.n_edges > 100


def test_a_dataset_in_use_takes_up_the_cache_that_was_built_meanwhile(dataset, monkeypatch):
    graph = Graph.radius(5.0)
    before = dataset.batch(range(10), graph)
    build_cache(dataset, graph)
    monkeypatch.setattr("matscale.core.data.neighbors.neighbors", None)  # no search is possible any more
    assert_same_edges(dataset.batch(range(10), graph), before)


def test_counts_of_edges_are_known_without_gathering(dataset):
    graph = Graph.radius(5.0)
    batch = dataset.batch(range(60), graph)
    expected = torch.bincount(batch.batch[batch.edge_index[1]], minlength=60)
    assert build_cache(dataset, graph).n_edges.tolist() == expected.tolist()


def test_an_edge_takes_few_bytes_on_disk(dataset):
    build_cache(dataset, Graph.radius(5.0))
    arrays = map_arrays(dataset.path / "graphs" / "radius-5" / "edges-00000.safetensors")
    assert arrays["neighbor"].dtype == np.uint8
    assert arrays["shift"].dtype == np.int8


def test_numbers_too_large_for_a_byte_are_kept(structures, pack_into):
    """300 atoms in a chain along an axis 1 Å long, numbered against it: large j, large shifts."""
    n = 300
    chain = replace(
        structures(1)[0],
        atomic_numbers=np.full(n, 29),
        positions=np.stack([np.zeros(n), np.zeros(n), 2.0 * np.arange(n)], 1),
        cell=np.diag([30.0, 30.0, 2.0 * n]),
        forces=np.zeros((n, 3)),
    )
    far = replace(chain, positions=chain.positions + np.arange(n)[:, None] * np.array([0, 0, 2.0 * n]))
    dataset = pack_into([chain, far])
    computed = dataset.batch([1, 0], Graph.radius(5.0))
    build_cache(dataset, Graph.radius(5.0))
    assert_same_edges(dataset.batch([1, 0], Graph.radius(5.0)), computed)
    kept = map_arrays(dataset.path / "graphs" / "radius-5" / "edges-00000.safetensors")
    assert np.abs(kept["shift"]).max() > 127  # a batch has the atoms moved near the origin, and small shifts
    assert computed.edge_index.max() > 255


def test_processes_write_the_same_files_as_one(dataset, tmp_path):
    graph, heard = Graph.radius(4.0), Heard()
    cache = build_cache(dataset, graph, workers=2, progress=heard)
    together = [p.read_bytes() for p in sorted(cache.folder.glob("*.safetensors"))]
    for file in cache.folder.glob("*.*"):
        file.unlink()
    cache = build_cache(dataset, graph)
    assert [p.read_bytes() for p in sorted(cache.folder.glob("*.safetensors"))] == together
    assert heard.stages[-1] == ("Neighbour lists", 60, 60)
    assert len(heard.stages) > 5


def test_an_interrupted_build_goes_on_where_it_stopped(dataset, monkeypatch):
    graph = Graph.radius(4.0)

    with pytest.raises(KeyboardInterrupt):
        build_cache(dataset, graph, progress=Heard(stop_at=30))
    assert open_cache(dataset, graph) is None
    searched, real = [], module.neighbors
    monkeypatch.setattr(module, "neighbors", lambda *args: searched.append(1) or real(*args))
    build_cache(dataset, graph)
    assert 0 < len(searched) <= 30
    assert not list((dataset.path / "graphs" / "radius-4").glob(".parts*"))


def test_a_valid_cache_is_not_built_again(dataset, monkeypatch):
    build_cache(dataset, Graph.radius(4.0))
    monkeypatch.setattr(module, "neighbors", None)
    build_cache(dataset, Graph.radius(4.0))


def test_a_cache_of_other_data_is_refused_and_replaced(dataset, structures, pack_into):
    graph = Graph.radius(4.0)
    stale = build_cache(dataset, graph).folder
    other = pack_into(structures(20, seed=5), name="other")
    (other.path / "graphs").mkdir()
    os.rename(stale, other.path / "graphs" / "radius-4")
    fresh = PackedDataset.open(other.path)
    with pytest.warns(UserWarning, match="belongs to other data or another neighbour rule"):
        computed = fresh.batch(range(20), graph)
    build_cache(fresh, graph)
    assert_same_edges(PackedDataset.open(other.path).batch(range(20), graph), computed)


def test_a_cutoff_that_differs_in_the_eighth_digit_is_another_rule(dataset):
    build_cache(dataset, Graph.radius(5.0))
    with pytest.warns(UserWarning, match="another neighbour rule"):
        assert open_cache(dataset, Graph.radius(5.0000001)) is None


@pytest.mark.parametrize("damage", ["{", "{}", "[]"])
def test_a_damaged_manifest_of_edges_is_refused(dataset, damage):
    cache = build_cache(dataset, Graph.radius(5.0))
    (cache.folder / "manifest.json").write_text(damage)
    with pytest.warns(UserWarning, match="is damaged"):
        assert open_cache(dataset, Graph.radius(5.0)) is None


def test_a_truncated_file_of_edges_is_named_and_its_edges_are_found_anew(dataset):
    graph = Graph.radius(5.0)
    cache = build_cache(dataset, graph)
    before = dataset.batch([0], graph)
    file = cache.folder / "edges-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.warns(UserWarning, match=r"edges-00000\.safetensors: has changed since it was written"):
        after = PackedDataset.open(dataset.path).batch([0], graph)
    assert_same_edges(after, before)


def test_only_the_damaged_file_is_built_again(dataset, monkeypatch):
    graph = Graph.radius(5.0)
    cache = build_cache(dataset, graph)
    before = {file.name: file.read_bytes() for file in cache.folder.glob("*.*")}
    file = cache.folder / "edges-00002.safetensors"
    file.write_bytes(before[file.name][:-1] + b"!")
    searched, real = [], module.neighbors
    monkeypatch.setattr(module, "neighbors", lambda *args: searched.append(1) or real(*args))
    with pytest.warns(UserWarning, match=r"edges-00002\.safetensors: has changed .* found again"):
        build_cache(dataset, graph)
    assert {file.name: file.read_bytes() for file in cache.folder.glob("*.*")} == before
    assert len(searched) == dataset.manifest.shards[2].n_structures


def test_a_damaged_piece_of_an_interrupted_build_is_searched_again(dataset):
    graph = Graph.radius(5.0)

    with pytest.raises(KeyboardInterrupt):
        build_cache(dataset, graph, progress=Heard(stop_at=30))
    piece = sorted(dataset.path.glob("graphs/radius-5/.parts-*/*.safetensors"))[0]
    contents = bytearray(piece.read_bytes())
    contents[-1] ^= 1  # a degree
    piece.write_bytes(contents)
    build_cache(dataset, graph)
    cached = PackedDataset.open(dataset.path).batch(range(60), graph)
    shutil.rmtree(dataset.path / "graphs")
    assert_same_edges(cached, PackedDataset.open(dataset.path).batch(range(60), graph))


def test_a_structure_without_neighbour_list_is_named(structures, pack_into):
    given = structures(12)
    given[9] = replace(given[9], cell=np.zeros((3, 3)))
    with pytest.raises(DataError, match="structure 9: cell"):
        build_cache(pack_into(given), Graph.radius(5.0))


def test_a_graph_without_edges_has_no_cache(dataset):
    with pytest.raises(DataError, match="has no edges to cache"):
        build_cache(dataset, Graph.dense())
    assert open_cache(dataset, Graph.dense()) is None


def test_a_dataset_that_cannot_be_written_to_says_what_to_do(dataset):
    (dataset.path / "graphs").write_text("in the way")
    with pytest.raises(DiskError, match=r"radius-5: cannot be written .* data\.cache_graphs=false"):
        build_cache(dataset, Graph.radius(5.0))


def _rank(path, queue):
    edge_cache_build.PIECE = 7
    build_cache(PackedDataset.open(path), Graph.radius(4.0), progress=(heard := Heard()))
    for _, done, _ in heard.stages:
        queue.put(done)


def test_builders_at_the_same_time_wait_for_the_first(dataset):
    queue = FORKS.Queue()
    ranks = [FORKS.Process(target=_rank, args=(dataset.path, queue)) for _ in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
        assert rank.exitcode == 0
    n_pieces = len(list(edge_cache_build._pieces([shard.n_structures for shard in dataset.manifest.shards])))
    seen = [queue.get(timeout=5) for _ in range(n_pieces)]
    assert seen == sorted(seen)
    assert queue.empty()  # only one of them searched
    assert json.loads((dataset.path / "graphs" / "radius-4" / "manifest.json").read_text())["n_edges"] > 0


def test_a_budget_of_edges_builds_the_cache_it_needs(dataset):
    loader = Loader(dataset, np.arange(60), Graph.radius(5.0), BatchBudget(edges=600))
    with_limit = [batch.n_edges for batch in loader.epoch(0) if batch.n_structures > 1]
    assert max(with_limit) <= 600
    assert open_cache(dataset, Graph.radius(5.0)) is not None
