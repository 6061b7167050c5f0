"""What a step costs: counted, fitted, given; the second backward included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import tiny
from matscale.core.data.batch import AtomicBatch, BatchShape
from matscale.core.data.graph import Graph
from matscale.core.data.store.packed import PackedDataset
from matscale.core.flops import Probes, cost_of, count_prediction, count_step, fit, measure_step_flops, probes_of
from matscale.core.model.architecture import DatasetInfo
from matscale.core.model.outputs import Outputs
from matscale.core.model.potential import Potential
from matscale.core.progress import Reporter
from matscale.core.train.session import train
from matscale.core.train.setup import prepare


@pytest.fixture
def batch(data: Path) -> AtomicBatch:
    architecture = tiny.architecture()
    return PackedDataset.open(data).batch(range(12), architecture.graph(tiny.TinyConfig()))


class Matrix(nn.Module):
    """energy = Σ atoms (W₂ tanh(W₁ x)): FLOPs that can be counted on paper."""

    def __init__(self, direct: bool = False) -> None:
        super().__init__()
        self.direct = direct
        self.first, self.second = nn.Linear(3, 16, bias=False), nn.Linear(16, 1, bias=False)

    def forward(self, batch: AtomicBatch) -> Outputs:
        energy = self.second(torch.tanh(self.first(batch.positions)))[:, 0]
        total = energy.new_zeros(batch.n_structures).index_add(0, batch.batch, energy)
        return Outputs(energy=total, forces=batch.positions if self.direct else None)


def test_counts_are_those_of_the_products_on_paper(batch: AtomicBatch) -> None:
    elements = tuple(range(1, 119))
    derived = Potential(Matrix(), derive=True, elements=elements)
    direct = Potential(Matrix(direct=True), derive=False, elements=elements)
    outer = 2 * batch.n_atoms * 16  # FLOPs of the product with W₂
    inner = 3 * outer  # and of that with W₁
    # A direct model: forward, then gradients to W₁, W₂ and to the layer between; none to the positions.
    assert count_step(direct, batch) == (inner + outer) + (inner + 2 * outer)
    prediction = (inner + outer) + (outer + inner)  # the strain has no matrix products
    assert count_prediction(derived, batch) == prediction
    # The second backward goes through the derivative's products and through the forward's.
    assert count_step(derived, batch) > 2.5 * prediction


def test_counting_changes_neither_weights_nor_gradients_nor_random_state(batch: AtomicBatch) -> None:
    architecture = tiny.architecture()
    potential = Potential.of(architecture, tiny.TinyConfig(dropout=0.5), DatasetInfo.any(), seed=0).train()
    before, state = [p.clone() for p in potential.parameters()], torch.get_rng_state()
    assert count_step(potential, batch) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) and a.grad is None for a, b in zip(potential.parameters(), before))
    assert potential.training


def test_the_measurement_of_an_architecture_is_that_of_its_potential(batch: AtomicBatch) -> None:
    architecture, config = tiny.architecture(), tiny.TinyConfig()
    potential = Potential.of(architecture, config, DatasetInfo.any(), seed=3)
    assert measure_step_flops(architecture, config, batch) == count_step(potential.train(), batch)


@pytest.mark.parametrize("name", ["springs", "columns"])
def test_a_fit_to_single_structures_predicts_batches_to_a_thousandth(data: Path, name: str) -> None:
    architecture = tiny.architecture(name)
    graph = architecture.graph(tiny.TinyConfig())
    dataset = PackedDataset.open(data)
    potential = Potential.of(architecture, tiny.TinyConfig(), DatasetInfo.any(), seed=0)
    probes = probes_of(dataset, np.arange(12), graph)
    assert len(probes.fitted) >= 8
    cost = cost_of(potential, probes)
    assert cost.counted_by == "fit"
    assert cost.error < 1e-3
    assert not cost.complaints(name)
    for rows in (range(12, 40), range(13, 14)):
        other = dataset.batch(rows, graph)
        assert cost.step(other.shape) == pytest.approx(count_step(potential, other), rel=1e-3)
        assert cost.prediction(other.shape) == pytest.approx(count_prediction(potential, other), rel=0.01)


def test_a_formula_goes_before_the_fit_and_is_held_against_the_count(batch: AtomicBatch) -> None:
    potential = Potential.of(tiny.architecture("columns"), tiny.TinyConfig(), DatasetInfo.any(), seed=0)
    counted = count_step(potential, batch)
    cost = cost_of(potential, Probes([batch], [batch]), lambda shape: 2.0 * counted / batch.n_atoms * shape.n_atoms)
    assert cost.counted_by == "formula"
    assert cost.step(batch.shape) == pytest.approx(2 * counted)
    assert cost.error == pytest.approx(1.0)
    [complaint] = cost.complaints("columns")
    assert "columns: FLOPs by the formula deviate from counted ones by up to 100.0 %" in complaint


def test_a_fit_recovers_the_coefficients_it_was_fed_and_leaves_out_the_rest() -> None:
    shapes = [BatchShape(1, 4, 90, 16), BatchShape(3, 10, 150, 40), BatchShape(2, 9, 300, 41), BatchShape(5, 5, 10, 5)]
    shapes += [BatchShape(1, 7, 10, 49), BatchShape(4, 40, 90, 500), BatchShape(2, 3, 33, 5), BatchShape(1, 1, 0, 1)]
    step = fit(shapes, [500.0 + 7.0 * s.n_atoms + 11.0 * s.n_edges + 2.0 * s.sum_atoms_squared for s in shapes])
    assert step.coefficients == pytest.approx({"batches": 500, "atoms": 7, "edges": 11, "atoms_squared": 2}, rel=1e-6)
    assert step(BatchShape(8, 64, 1000, 600)) == pytest.approx(500 + 7 * 64 + 11 * 1000 + 2 * 600, rel=1e-6)
    assert fit(shapes, [0.0] * 8)(shapes[0]) == 0.0


def test_triplets_are_counted_only_for_a_cost_that_depends_on_them() -> None:
    asked = []

    def shape(n_atoms: int, degree: int) -> BatchShape:
        def count() -> int:
            asked.append(n_atoms)
            return n_atoms * degree * (degree - 1)

        return BatchShape(1, n_atoms, n_atoms * degree, n_atoms**2, count)

    shapes = [shape(n, degree) for n, degree in [(1, 2), (2, 9), (3, 5), (5, 4), (7, 12), (8, 3), (9, 1), (11, 6)]]
    pairs = fit(shapes, [3.0 * s.n_edges for s in shapes])
    assert pairs(shape(4, 4)) == pytest.approx(48)
    assert not asked
    angles = fit(shapes, [3.0 * s.n_edges + 5.0 * s.n_triplets for s in shapes])
    assert angles(shape(20, 30)) == pytest.approx(3 * 600 + 5 * 20 * 30 * 29, rel=1e-6)


def test_triplets_of_a_batch_are_ordered_pairs_of_neighbours(batch: AtomicBatch) -> None:
    _, centre = batch.edges()
    pairs = (centre[:, None] == centre[None, :]).sum() - batch.n_edges
    assert batch.shape.n_triplets == int(pairs) > 0
    assert replace(batch, edge_index=None).shape.n_triplets == 0


def test_probes_hold_no_padding_where_the_layout_is_padded(data: Path) -> None:
    dataset = PackedDataset.open(data)
    for graph in (Graph.dense(), Graph.radius(4.0)):
        probes = probes_of(dataset, np.arange(40), graph)
        sizes = [set(batch.atoms_per_structure.tolist()) for batch in (*probes.fitted, *probes.verified)]
        assert len({frozenset(s) for s in sizes}) > 2
        assert all(len(s) == 1 for s in sizes) == (graph.kind == "dense")


def test_one_structure_is_enough_to_probe(data: Path) -> None:
    dataset = PackedDataset.open(data)
    potential = Potential.of(tiny.architecture("columns"), tiny.TinyConfig(), DatasetInfo.any(), seed=0)
    probes = probes_of(dataset, np.array([3]), Graph.none())
    assert cost_of(potential, probes).error < 1e-9


def test_every_row_has_what_was_spent_and_train_rows_the_speed(data: Path, tmp_path: Path) -> None:
    config = tiny.configured(data, "budget.steps=4", "evaluation.every=2")
    run = train(config, tmp_path / "run", architecture=tiny.architecture())
    spent = ("flops", "validation_flops", "structures", "atoms", "edges")
    rows = list(run.metrics())
    assert all(set(spent) <= set(row) for row in rows)
    for name in spent:
        assert [row[name] for row in rows] == sorted(row[name] for row in rows)
    for row in run.metrics("train"):
        assert row["mfu"] == pytest.approx(row["flops_per_s"] / run.info["peak_flops_per_s"])
        assert row["flops_per_s"] > 0
    assert run.info["mfu_peak_by"] == "measured"
    assert run.info["flops_elementwise_share"] > 0
    assert run.info["flops_deviation"] < 1e-3


def test_the_sum_of_a_run_is_the_sum_over_the_batches_it_saw(data: Path, tmp_path: Path) -> None:
    architecture = tiny.architecture()
    config = tiny.configured(data, "budget.steps=5", "augmentation.rotate=false")
    run = train(config, tmp_path / "run", architecture=architecture)
    setup = prepare(run.config, architecture)
    loader = setup.training_loader()
    counted = sum(count_step(setup.potential(), loader.batch(0, k)) for k in range(5))
    assert run.info["flops"] == pytest.approx(counted, rel=1e-3)


def test_a_formula_that_is_wrong_is_said_when_a_run_starts(data: Path, tmp_path: Path) -> None:
    class Ears(Reporter):
        heard: ClassVar[list[str]] = []

        def said(self, message: str) -> None:
            self.heard.append(message)

    wrong = replace(tiny.architecture("columns"), step_flops=lambda config, shape: 7.0 * shape.n_atoms)
    train(
        tiny.configured(data, "budget.steps=1", name="columns"), tmp_path / "run", architecture=wrong, progress=Ears()
    )
    assert any("columns: FLOPs by the formula deviate from counted ones by up to 9" in told for told in Ears.heard)
