from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import tiny
from matscale.core.data.graph import Graph
from matscale.core.data.loader import Augmentation, BatchBudget, Loader
from matscale.core.data.neighbors import collate
from matscale.core.data.store.edge_cache_build import build_cache
from matscale.core.data.structure import Structure
from matscale.core.errors import ConfigError


class Listed:
    """The least that a loader needs of a dataset."""

    def __init__(self, structures):
        self.structures, self.asked = structures, []
        self.n_atoms = np.array([len(s) for s in structures])

    def __len__(self):
        return len(self.structures)

    def batch(self, indices, graph=Graph.none(), dtype=torch.float32):
        self.asked.append(np.asarray(indices).tolist())
        batch = collate([self.structures[i] for i in indices], graph, dtype)
        return replace(batch, index=torch.as_tensor(np.asarray(indices)))


def crystal(rng, n_atoms):
    stress = rng.normal(size=(3, 3))
    return Structure(
        atomic_numbers=rng.integers(1, 90, n_atoms),
        positions=rng.uniform(0, 8, (n_atoms, 3)),
        cell=8 * np.eye(3) + rng.uniform(-1, 1, (3, 3)),
        pbc=np.ones(3, bool),
        energy=rng.normal(),
        forces=rng.normal(size=(n_atoms, 3)),
        stress=stress + stress.T,
    )


@pytest.fixture
def dataset(rng):
    return Listed([crystal(rng, n) for n in rng.integers(1, 12, 100)])


def rows(loader, epoch, start=0):
    return [batch.index.tolist() for batch in loader.epoch(epoch, start)]


def seen(loader, epoch):
    return [i for batch in rows(loader, epoch) for i in batch]


BUDGETS = [
    BatchBudget(structures=7),
    BatchBudget(atoms=40),
    BatchBudget(structures=7, atoms=40),
    BatchBudget(edges=500),
]


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_an_epoch_visits_every_chosen_structure_once_and_no_other(dataset, budget):
    chosen = np.arange(3, 95, 2)
    loader = Loader(dataset, chosen, Graph.radius(4.0), budget)
    for epoch in (0, 1, 7):
        assert sorted(seen(loader, epoch)) == chosen.tolist()
        assert loader.n_batches(epoch) == len(rows(loader, epoch))


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_a_batch_is_full_and_not_over_its_budget(dataset, budget):
    loader = Loader(dataset, np.arange(100), Graph.radius(4.0), budget)
    batches = list(loader.epoch(0))
    firsts = [batch.split()[0] for batch in batches[1:]]
    for batch, following in zip(batches, [*firsts, None]):
        amounts = {"structures": (batch.n_structures, 1)}
        amounts["atoms"] = (batch.n_atoms, following.n_atoms if following else 0)
        amounts["edges"] = (batch.n_edges, following.n_edges if following else 0)
        limits = {name: getattr(budget, name) for name in amounts if getattr(budget, name)}
        assert all(amounts[name][0] <= limit for name, limit in limits.items())
        if following:
            assert any(sum(amounts[name]) > limit for name, limit in limits.items())


def test_the_order_is_a_pure_function_of_seed_and_epoch(dataset):
    def order(seed, epoch):
        return rows(Loader(dataset, np.arange(100), Graph.none(), BatchBudget(atoms=40), seed=seed), epoch)

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)
    assert order(1, 2) != order(2, 1)


def test_batch_k_is_reached_without_making_those_before(dataset):
    whole = rows(Loader(dataset, np.arange(100), Graph.none(), BatchBudget(atoms=40)), 3)
    fresh = Loader(dataset, np.arange(100), Graph.none(), BatchBudget(atoms=40))
    dataset.asked.clear()
    assert rows(fresh, 3, start=5) == whole[5:]
    assert dataset.asked == whole[5:]


def test_the_plan_does_not_depend_on_how_much_of_it_is_made_at_once(dataset, monkeypatch):
    whole = rows(Loader(dataset, np.arange(100), Graph.none(), BatchBudget(atoms=40)), 0)
    monkeypatch.setattr("matscale.core.data.loader._WINDOW", 13)
    assert rows(Loader(dataset, np.arange(100), Graph.none(), BatchBudget(atoms=40)), 0) == whole


def test_validation_keeps_the_given_order_in_every_epoch(dataset):
    chosen = np.array([5, 3, 99, 0, 42])
    loader = Loader(dataset, chosen, Graph.none(), BatchBudget(structures=2), shuffle=False)
    assert rows(loader, 0) == rows(loader, 8) == [[5, 3], [99, 0], [42]]


def test_a_range_of_rows_serves_as_well_as_an_array(dataset):
    by_range = Loader(dataset, range(10, 60, 2), Graph.none(), BatchBudget(structures=4))
    assert rows(by_range, 1) == rows(Loader(dataset, np.arange(10, 60, 2), Graph.none(), BatchBudget(structures=4)), 1)


def test_a_structure_over_the_budget_is_a_batch_of_its_own_with_one_warning(rng):
    dataset = Listed([crystal(rng, n) for n in (2, 30, 2, 2, 40, 2)])
    loader = Loader(dataset, np.arange(6), Graph.none(), BatchBudget(atoms=10), shuffle=False)
    with pytest.warns(UserWarning, match=r"structure 1 has 30 atoms, more than a batch may hold \(10\)") as caught:
        assert rows(loader, 0) == [[0], [1], [2, 3], [4], [5]]
    assert len(caught) == 1
    assert seen(loader, 1) == list(range(6))  # a second warning would be an error here


@pytest.mark.parametrize("n_processes", [2, 3, 8])
@pytest.mark.parametrize("budget", [BatchBudget(structures=7), BatchBudget(atoms=40)], ids=str)
def test_processes_share_the_structures_of_a_step_within_the_budget(dataset, n_processes, budget):
    loader = Loader(dataset, np.arange(100), Graph.none(), budget)
    for epoch in (0, 1):
        trained = []
        for first in range(0, loader.n_batches(epoch), 3):
            places = range(first, min(first + 3, loader.n_batches(epoch)))
            divided = loader.shared(epoch, places, n_processes)
            everything = [row for share in divided for rows in share for row in rows.tolist()]
            assert sorted(everything) == sorted(row for k in places for row in loader.members(epoch, k).tolist())
            for rows in (rows for share in divided for rows in share):
                assert len(rows) <= (budget.structures or 100)
                assert len(rows) == 1 or dataset.n_atoms[rows].sum() <= (budget.atoms or 10**6)
            assert all(divided) or len(everything) < n_processes
            trained += everything
        assert sorted(trained) == list(range(100))


def test_a_step_is_divided_by_one_measure_though_a_cache_appears(tmp_path):
    packed = tiny.make_dataset(tmp_path / "data")
    loader = Loader(packed, np.arange(len(packed)), Graph.radius(4.0), BatchBudget(structures=4))
    before = loader.shared(0, range(1), 2)
    assert not loader.is_balanced_by_edges
    build_cache(packed, Graph.radius(4.0))  # by another process
    after = loader.shared(0, range(1), 2)
    assert [[r.tolist() for r in share] for share in before] == [[r.tolist() for r in share] for share in after]
    assert not loader.is_balanced_by_edges


def test_batches_of_an_epoch_can_be_taken_in_strides(dataset):
    loader = Loader(dataset, np.arange(100), Graph.none(), BatchBudget(structures=7), shuffle=False)
    strides = [[b.index.tolist() for b in loader.epoch(0, rank, 3)] for rank in range(3)]
    assert [strides[k % 3][k // 3] for k in range(15)] == rows(loader, 0)


def test_augmentation_turns_positions_cell_forces_and_stress_together(dataset):
    plain = Loader(dataset, np.arange(100), Graph.radius(4.0), BatchBudget(structures=9), dtype=torch.float64)
    turned = Loader(
        dataset,
        np.arange(100),
        Graph.radius(4.0),
        BatchBudget(structures=9),
        dtype=torch.float64,
        augmentation=Augmentation(rotate=True, reflect=True),
    )
    determinants = []
    for before, after in zip(plain.epoch(0), turned.epoch(0)):
        for one, other in zip(before.split(), after.split()):
            matrix = torch.linalg.solve(one.cell[0], other.cell[0]).T
            determinants.append(torch.linalg.det(matrix).item())
            torch.testing.assert_close(matrix @ matrix.T, torch.eye(3, dtype=torch.float64))
            torch.testing.assert_close(other.positions, one.positions @ matrix.T)
            torch.testing.assert_close(other.forces, one.forces @ matrix.T)
            torch.testing.assert_close(other.stress[0], matrix @ one.stress[0] @ matrix.T)
            torch.testing.assert_close(other.energy, one.energy)
            assert (other.edge_index == one.edge_index).all()
            assert not torch.allclose(matrix.abs(), torch.eye(3, dtype=torch.float64), atol=1e-3)
    signs = np.sign(np.round(determinants))
    assert 30 < (signs < 0).sum() < 70


def test_the_turn_of_a_structure_depends_on_seed_epoch_and_row_alone():
    augmentation = Augmentation(rotate=True)
    some = augmentation.matrices(np.array([4, 9, 2]), seed=1, epoch=5)
    assert (augmentation.matrices(np.array([2, 8, 4]), seed=1, epoch=5)[[2, 0]] == some[[0, 2]]).all()
    for other in ((1, 6), (2, 5), (5, 1)):
        angles = Rotation.from_matrix(augmentation.matrices(np.array([4, 9, 2]), *other) @ some.transpose(0, 2, 1))
        assert (angles.magnitude() > 1e-3).all()


def test_reflection_alone_inverts_about_half():
    matrix = Augmentation(reflect=True).matrices(np.arange(1000), 0, 0)
    inverted = (matrix == -np.eye(3)).all((1, 2))
    assert ((matrix == np.eye(3)).all((1, 2)) | inverted).all()
    assert 420 < inverted.sum() < 580


@pytest.mark.parametrize("limits", [{}, {"atoms": 0}, {"structures": -1}])
def test_a_budget_that_holds_nothing_is_refused(limits):
    with pytest.raises(ConfigError, match="budget"):
        BatchBudget(**limits)


def test_a_budget_of_edges_alone_needs_a_model_with_edges(dataset):
    with pytest.raises(ConfigError, match="this model has no edges"):
        Loader(dataset, np.arange(100), Graph.dense(), BatchBudget(edges=100))


def test_an_empty_selection_is_refused(dataset):
    with pytest.raises(ConfigError, match="selection is empty"):
        Loader(dataset, np.arange(0), Graph.none(), BatchBudget(atoms=100))
