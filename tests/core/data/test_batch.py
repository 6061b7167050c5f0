"""A batch is its members, in whatever layout, on whatever device, however it is turned."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.testing import assert_close

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate

GRAPH = Graph.radius(5.0)


@pytest.fixture
def members(structures):
    """A crystal, a lone atom without a cell or neighbours, an unlabelled crystal, a slab."""
    given = structures(4, seed=3)
    given[1] = replace(
        given[1],
        atomic_numbers=np.array([29]),
        positions=np.ones((1, 3)),
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, bool),
        forces=np.zeros((1, 3)),
    )
    given[2] = replace(given[2], energy=None, forces=None, stress=None)
    given[3] = replace(given[3], pbc=np.array([True, True, False]))
    return given


@pytest.fixture
def batch(members):
    return collate(members, GRAPH, torch.float64)


def assert_equal_batches(one, other):
    for field in fields(AtomicBatch):
        assert_close(getattr(one, field.name), getattr(other, field.name), rtol=0, atol=0, equal_nan=True)


def test_a_batch_is_its_members_alone(members, batch):
    parts = batch.split()
    assert len(parts) == 4
    for part, structure in zip(parts, members):
        assert_equal_batches(part, collate([structure], GRAPH, torch.float64))


def test_joining_what_was_split_gives_the_batch(batch):
    assert_equal_batches(AtomicBatch.join(batch.split()), batch)


def test_batches_without_edges_or_labels_can_be_split_and_joined(members):
    bare = replace(collate(members), energy=None, forces=None, stress=None, index=None)
    assert_equal_batches(AtomicBatch.join(bare.split()), bare)


def test_sizes_are_those_of_the_members(members, batch):
    n = [len(s) for s in members]
    shape = batch.shape
    assert (shape.n_structures, shape.n_atoms) == (4, sum(n))
    assert shape.sum_atoms_squared == sum(k * k for k in n)
    assert shape.n_edges == batch.edge_index.shape[1] > 0


def test_the_padded_layout_holds_the_same_atoms(members, batch):
    dense = batch.dense()
    assert dense.mask.sum(1).tolist() == [len(s) for s in members]
    assert_close(dense.flat(dense.positions), batch.positions)
    assert (dense.flat(dense.atomic_numbers) == batch.atomic_numbers).all()
    for s, structure in enumerate(members):
        assert_close(dense.positions[s, : len(structure)], torch.as_tensor(structure.positions))
    assert (dense.atomic_numbers[~dense.mask] == 0).all()
    assert (dense.positions[~dense.mask] == 0).all()
    assert (~dense.mask).any()


def test_the_padded_layout_is_differentiable(batch):
    positions = batch.positions.clone().requires_grad_()
    dense = batch.with_geometry(positions, batch.cell).dense()
    (dense.positions**2).sum().backward()
    assert_close(positions.grad, 2 * batch.positions)


def test_edge_vectors_lead_from_the_centre_to_an_image_of_the_neighbour(members, batch):
    vectors, first = batch.edge_vec(), 0
    for part, structure in zip(batch.split(), members):
        j, i = part.edge_index.numpy()
        expected = structure.positions[j] - structure.positions[i] + part.edge_shift.numpy() @ structure.cell
        assert_close(vectors[first : first + len(j)], torch.as_tensor(expected))
        first += len(j)
    assert first == len(vectors)
    assert_close(batch.edge_distance(), vectors.norm(dim=1))
    assert (batch.edge_distance() < 5.0).all()


def test_edge_vectors_are_differentiable_in_positions_and_cell(members):
    small = collate(members[:1], Graph.radius(4.0), torch.float64)

    def vectors(positions, cell):
        return small.with_geometry(positions, cell).edge_vec()

    inputs = small.positions.clone().requires_grad_(), small.cell.clone().requires_grad_()
    assert torch.autograd.gradcheck(vectors, inputs)
    assert torch.autograd.grad(vectors(*inputs).norm(dim=1).sum(), inputs[1])[0].abs().max() > 0.1


def test_a_batch_without_graph_says_so_when_asked_for_edges(members):
    with pytest.raises(ValueError, match="no edges"):
        collate(members).edge_vec()


def test_fractional_coordinates_give_the_positions_back(batch):
    back = torch.einsum("na,nab->nb", batch.fractional(), batch.cell[batch.batch])
    has_cell = batch.volume()[batch.batch] > 0
    assert_close(back[has_cell], batch.positions[has_cell])
    assert (batch.fractional()[~has_cell] == 0).all()
    assert has_cell.sum() == batch.n_atoms - 1


def test_volume_is_that_of_the_cell_and_zero_without_one(members, batch):
    assert_close(batch.volume(), torch.tensor([abs(np.linalg.det(s.cell)) for s in members], dtype=torch.float64))
    assert batch.volume()[1] == 0


@pytest.mark.parametrize("determinant", [1, -1])
def test_turning_a_batch_turns_every_vector_and_tensor(batch, determinant):
    matrices = torch.as_tensor(determinant * Rotation.random(4, rng=np.random.default_rng(0)).as_matrix())
    turned = batch.transformed(matrices)
    for m, one, other in zip(matrices, batch.split(), turned.split()):
        assert_close(other.positions, one.positions @ m.T)
        assert_close(other.cell[0], one.cell[0] @ m.T)
        assert_close(other.forces, one.forces @ m.T, equal_nan=True)
        assert_close(other.stress[0], m @ one.stress[0] @ m.T, equal_nan=True)
        assert_close(other.energy, one.energy, equal_nan=True)
        assert_close(other.edge_vec(), one.edge_vec() @ m.T)
        assert_close(other.fractional(), one.fractional())
    assert not torch.allclose(turned.positions, batch.positions)


def test_one_matrix_turns_all_structures(batch):
    matrix = torch.as_tensor(Rotation.from_euler("z", 90, degrees=True).as_matrix())
    assert_equal_batches(batch.transformed(matrix), batch.transformed(matrix.expand(4, 3, 3)))


def test_turning_the_edges_of_a_batch_is_finding_those_of_the_turned_structures(members, batch):
    matrix = Rotation.random(rng=np.random.default_rng(1)).as_matrix()
    turned = [replace(s, positions=s.positions @ matrix.T, cell=s.cell @ matrix.T) for s in members]
    again = collate(turned, GRAPH, torch.float64)
    assert torch.equal(again.edge_index, batch.edge_index)
    assert torch.equal(again.edge_shift, batch.edge_shift)
    assert_close(batch.transformed(torch.as_tensor(matrix)).edge_vec(), again.edge_vec())


def test_to_converts_what_is_floating_and_nothing_else(batch):
    single = batch.to("cpu", torch.float32)
    for field in fields(AtomicBatch):
        before, after = getattr(batch, field.name), getattr(single, field.name)
        assert after.dtype == (torch.float32 if before.is_floating_point() else before.dtype), field.name
        assert_close(after, before.to(after.dtype), equal_nan=True)


def test_to_moves_every_tensor(batch):
    moved = batch.to("meta")
    assert {getattr(moved, field.name).device.type for field in fields(AtomicBatch)} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU's driver")
def test_pinned_batches_hold_the_same_values(batch):
    pinned = batch.pin_memory()
    assert pinned.positions.is_pinned()
    assert_equal_batches(pinned, batch)


def test_a_pyg_batch_holds_the_same_structures(batch):
    pyg = batch.to_pyg()
    assert pyg.num_graphs == 4
    assert (pyg.batch == batch.batch).all()
    assert (pyg.z == batch.atomic_numbers).all()
    assert_close(pyg.pos, batch.positions)
    assert (pyg.edge_index == batch.edge_index).all()
    assert_close(pyg.edge_vec, batch.edge_vec())
    assert_close(pyg.cell, batch.cell)
    assert_close(pyg.y, batch.energy, equal_nan=True)
    assert_close(pyg.force, batch.forces, equal_nan=True)
    assert_close(pyg.stress, batch.stress, equal_nan=True)


def test_a_pyg_batch_can_be_made_without_edges_and_labels(members):
    pyg = replace(collate(members), energy=None, forces=None, stress=None).to_pyg()
    assert pyg.num_graphs == 4
    assert pyg.edge_index is None
