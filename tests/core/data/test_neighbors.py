from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.geometry import complete_cell
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate, neighbors
from matscale.core.data.structure import Structure
from matscale.core.errors import DataError

examples = settings(derandomize=True, deadline=None, max_examples=80, database=None)


@st.composite
def crystals(draw):
    """Random triclinic cells of 1-6 atoms, some outside their cell, with any mixture of periodic and open axes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pbc = np.array(draw(st.tuples(st.booleans(), st.booleans(), st.booleans())))
    while True:
        cell = np.diag(rng.uniform(1.0, 6.0, 3)) + rng.uniform(-1.5, 1.5, (3, 3))
        if abs(np.linalg.det(cell)) > 2:
            break
    positions = rng.uniform(-1.0, 2.0, (draw(st.integers(1, 6)), 3)) @ cell
    if draw(st.booleans()):
        cell[~pbc] = 0.0
    return positions, cell, pbc


def as_set(edge_index, edge_shift):
    edges = {(j, i, *shift) for j, i, shift in zip(*edge_index.tolist(), map(tuple, edge_shift.tolist()))}
    assert len(edges) == edge_index.shape[1], "an edge is listed twice"
    return edges


def from_ase(positions, cell, pbc, cutoff):
    """ASE's list, and its distances. Rows of open axes are completed, as ase.Atoms users have to."""
    cell = complete_cell(np.where(np.asarray(pbc)[:, None], cell, 0.0))
    atoms = Atoms("H" * len(positions), positions=positions, cell=cell, pbc=pbc)
    return neighbor_list("ijSd", atoms, cutoff)


@examples
@given(crystals(), st.floats(1.0, 7.0))
def test_radius_edges_equal_those_of_ase_one_by_one(crystal, cutoff):
    edge_index, edge_shift = neighbors(*crystal, Graph.radius(cutoff))
    i, j, shift, _ = from_ase(*crystal, cutoff)
    assert as_set(edge_index, edge_shift) == {(*ji, *s) for *ji, s in zip(j.tolist(), i.tolist(), map(tuple, shift))}


def nearest_by_hand(crystal, graph):
    """The rule of `Graph.nearest`, atom by atom, from ASE's list."""
    kept = set()
    edges = list(zip(*(x.tolist() for x in from_ase(*crystal, graph.cutoff))))
    for centre in range(len(crystal[0])):
        mine = sorted((round(d, 6), j, tuple(s), d) for i, j, s, d in edges if i == centre)
        if graph.strict:
            chosen = mine[: graph.n_neighbors]
        else:
            mine = sorted(mine, key=lambda e: e[3])
            limit = mine[graph.n_neighbors][3] ** 2 + 0.01 if len(mine) > graph.n_neighbors else np.inf
            chosen = [e for e in mine if e[3] ** 2 <= limit]
        kept |= {(j, centre, *s) for _, j, s, _ in chosen}
    return kept


@pytest.mark.parametrize("strict", [True, False])
@examples
@given(crystal=crystals(), n_neighbors=st.integers(1, 14), cutoff=st.floats(2.0, 8.0))
def test_nearest_edges_follow_their_rule_one_by_one(strict, crystal, n_neighbors, cutoff):
    graph = Graph.nearest(cutoff, n_neighbors, strict)
    assert as_set(*neighbors(*crystal, graph)) == nearest_by_hand(crystal, graph)


@examples
@given(crystals(), st.sampled_from([Graph.radius(5.0), Graph.nearest(6.0, 7), Graph.nearest(6.0, 7, strict=False)]))
def test_edges_are_sorted_by_centre_then_neighbour_then_shift(crystal, graph):
    (j, i), shift = neighbors(*crystal, graph)
    keys = list(zip(i.tolist(), j.tolist(), map(tuple, shift.tolist())))
    assert keys == sorted(keys)


@examples
@given(crystals())
def test_an_edge_vector_starts_at_the_centre_and_is_shorter_than_the_cutoff(crystal):
    positions, cell, pbc = crystal
    (j, i), shift = neighbors(positions, cell, pbc, Graph.radius(4.0))
    lengths = np.linalg.norm(positions[j] - positions[i] + shift @ cell, axis=1)
    assert (lengths < 4.0).all()
    assert (shift[:, ~pbc] == 0).all()


def fcc(a: float = 4.05, repeat: int = 1):
    corners = a * np.stack(np.meshgrid(*[np.arange(repeat)] * 3), -1).reshape(-1, 1, 3)
    basis = a * np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return (corners + basis).reshape(-1, 3), a * repeat * np.eye(3)


def test_an_atom_alone_in_a_small_cell_has_its_own_images_as_neighbours():
    edge_index, shift = neighbors([[0.3, 0.2, 0.1]], 2.0 * np.eye(3), [True] * 3, Graph.radius(2.1))
    assert (edge_index == 0).all()
    assert sorted(map(tuple, shift.tolist())) == sorted(
        [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    )


def test_strict_nearest_takes_no_part_of_a_shell_by_chance():
    """12 equal neighbours, 6 wanted: rounding noise of a turned crystal must not change which."""
    from scipy.spatial.transform import Rotation

    positions, cell = fcc(repeat=2)
    graph = Graph.nearest(6.0, 6)
    first = neighbors(positions, cell, [True] * 3, graph)
    for turn in Rotation.random(5, rng=np.random.default_rng(0)).as_matrix():
        index, shift = neighbors(positions @ turn.T, cell @ turn.T, [True] * 3, graph)
        assert (index == first[0]).all()
        assert (shift == first[1]).all()


@pytest.mark.parametrize(("n_neighbors", "degree"), [(5, 12), (11, 12), (12, 18), (20, 42)])
def test_the_non_strict_rule_keeps_whole_shells(n_neighbors, degree):
    """fcc has shells of 12, 6, 24: the (n + 1)-th nearest brings its shell with it."""
    positions, cell = fcc()
    edge_index, _ = neighbors(positions, cell, [True] * 3, Graph.nearest(12.0, n_neighbors, strict=False))
    assert np.bincount(edge_index[1]).tolist() == [degree] * 4


def test_neighbours_at_the_cutoff_are_left_out_whatever_direction_they_are_in():
    """Cu: the shell at exactly twice the nearest distance; in float32 some of it would be counted."""
    positions, cell = fcc(3.61)
    edge_index, _ = neighbors(positions, cell, [True] * 3, Graph.radius(3.61 * np.sqrt(2) - 1e-9))
    assert np.bincount(edge_index[1]).tolist() == [12 + 6 + 24] * 4


@pytest.mark.parametrize("graph", [Graph.radius(5.0), Graph.nearest(5.0, 3), Graph.nearest(5.0, 3, strict=False)])
def test_isolated_atoms_have_no_edges(graph):
    edge_index, shift = neighbors([[0, 0, 0], [0, 0, 30.0]], np.zeros((3, 3)), [False] * 3, graph)
    assert edge_index.shape == (2, 0)
    assert shift.shape == (0, 3)
    assert edge_index.dtype == np.int64
    assert shift.dtype == np.int32


def test_no_atoms_have_no_edges():
    edge_index, _ = neighbors(np.zeros((0, 3)), np.eye(3) * 5, [True] * 3, Graph.nearest(5.0, 3))
    assert edge_index.shape == (2, 0)


def test_graphs_without_edges_give_none():
    assert neighbors([[0, 0, 0]], np.eye(3), [True] * 3, Graph.dense())[0].shape == (2, 0)


def test_rows_of_open_axes_are_not_read():
    """A slab whose third row is zero, a vacuum, or a copy of the first one: the same slab."""
    positions = [[0, 0, 0], [1.0, 1.0, 1.5]]
    rows = ([0, 0, 0], [0, 0, 40.0], [2.5, 0, 0], [np.nan, 0, 0])
    results = [
        neighbors(positions, [[2.5, 0, 0], [0, 2.5, 0], row], [True, True, False], Graph.radius(5.0)) for row in rows
    ]
    assert results[0][0].shape[1] > 10
    for index, shift in results[1:]:
        assert (index == results[0][0]).all()
        assert (shift == results[0][1]).all()


@pytest.mark.parametrize(
    "cell", [np.zeros((3, 3)), np.diag([3.0, 3.0, 0.0]), [[3, 0, 0], [0, 3, 0], [1, 1, 0]], np.diag([3.0, 3.0, 1e-3])]
)
def test_a_periodic_cell_without_volume_is_refused_with_its_value(cell):
    with pytest.raises(DataError, match=r"lattice planes only .* Å apart") as error:
        neighbors([[0, 0, 0]], cell, [True] * 3, Graph.radius(5.0))
    assert str(np.asarray(cell, float).tolist()) in str(error.value)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="NaN or infinite"):
        neighbors([[0, 0, np.nan]], np.eye(3) * 4, [True] * 3, Graph.radius(5.0))


@pytest.mark.parametrize("graph", [Graph.radius(4.0), Graph.nearest(4.0, 5), Graph.nearest(4.0, 5, strict=False)])
def test_atoms_that_nearly_coincide_are_refused_with_their_distance_and_the_limit(graph):
    positions = np.array([[0, 0, 0], [2.0, 0, 0], [0, 0, 1e-7]])
    with pytest.raises(DataError, match=r"atoms 0 and 2 are 1e-07 Å apart, less than 0\.01 Å, at \[0\.0, 0\.0, 0\.0\]"):
        neighbors(positions, 8 * np.eye(3), [True] * 3, graph)
    positions[2, 2] = 0.011
    assert neighbors(positions, 8 * np.eye(3), [True] * 3, graph)[0].shape[1] == 6


@pytest.mark.parametrize("graph", [Graph.radius(5.0), Graph.nearest(5.0, 3), Graph.nearest(5.0, 3, strict=False)])
def test_two_atoms_in_one_place_are_named(graph):
    positions = [[1.0, 1, 1], [0, 0, 0], [4.0, 4, 4]]  # the last is an image of the second
    with pytest.raises(DataError, match="atoms 1 and 2 are in one place"):
        neighbors(positions, 4 * np.eye(3), [True] * 3, graph)


def test_collate_names_the_structure_that_has_no_neighbours():
    good = Structure(np.array([13]), np.zeros((1, 3)), 4 * np.eye(3), np.ones(3, bool))
    bad = Structure(np.array([13]), np.zeros((1, 3)), np.zeros((3, 3)), np.ones(3, bool), source="al.xyz#7")
    with pytest.raises(DataError, match=r"al\.xyz#7: cell"):
        collate([good, bad], Graph.radius(4.0))


def test_collate_refuses_an_empty_list():
    with pytest.raises(DataError, match="at least one"):
        collate([])


def test_collate_marks_missing_labels_and_keeps_energies_exact():
    labelled = Structure(
        np.array([13]), np.zeros((1, 3)), 4 * np.eye(3), np.ones(3, bool), -1234.56789012345, np.ones((1, 3)), np.eye(3)
    )
    bare = Structure(np.array([1, 1]), np.eye(3)[:2], np.zeros((3, 3)), np.zeros(3, bool))
    batch = collate([labelled, bare])
    assert batch.energy[0].item() == -1234.56789012345
    assert batch.energy.isnan().tolist() == [False, True]
    assert batch.forces.isnan().all(1).tolist() == [False, True, True]
    assert batch.stress.isnan().flatten(1).all(1).tolist() == [False, True]
    assert batch.atoms_per_structure.tolist() == [1, 2]
    assert batch.positions.dtype == torch.float32
    assert batch.index.tolist() == [-1, -1]


def test_each_thread_searches_on_its_own():
    """One vesin object shared by threads corrupts the heap."""
    positions, cell = fcc(repeat=2)
    expected, wrong = neighbors(positions, cell, [True] * 3, Graph.radius(6.0)), []

    def search() -> None:
        for _ in range(20):
            index, shift = neighbors(positions, cell, [True] * 3, Graph.radius(6.0))
            if not ((index == expected[0]).all() and (shift == expected[1]).all()):
                wrong.append(index)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("golden", "graph"),
    [("eqv2_tiny", Graph.nearest(8.0, 12, strict=False)), ("schnet_tiny", Graph.nearest(6.0, 50))],
    ids=["EquiformerV2", "SchNet with 50 neighbours"],
)
def test_graphs_equal_those_that_other_programs_made(shared, golden, graph):
    inputs = json.loads((shared / "golden" / f"{golden}.json").read_text())["inputs"]
    expected = load_file(shared / "golden" / f"{golden}.safetensors")
    structures = [
        Structure(np.array(s["numbers"]), np.array(s["positions"]), np.array(s["cell"]), np.array(s["pbc"]))
        for s in inputs
    ]
    batch = collate(structures, graph, torch.float64)

    def rows(index, vectors):  # sorted: pairs first, then vectors, which differ by far more than the rounding
        table = np.concatenate([index.T, np.round(vectors, 3) + 0.0], axis=1)
        return table[np.lexsort(table.T[::-1])]

    ours = rows(batch.edge_index.numpy(), batch.edge_vec().numpy())
    theirs = rows(expected["graph.edge_index"], expected["graph.edge_distance_vec"])
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
