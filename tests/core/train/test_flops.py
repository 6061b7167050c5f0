"""What a step costs: counted, fitted, given; the second backward included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

from matscale.core.architecture import BatchShape, DatasetInfo
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.packed import PackedDataset
from matscale.core.flops import cost_of, count_prediction, count_step, fit, measure_step_flops, probes
from matscale.core.outputs import Outputs
from matscale.core.potential import Potential


@pytest.fixture
def batch(data: Path) -> AtomicBatch:
    architecture = tiny.architecture()
    return PackedDataset.open(data).batch(range(12), architecture.graph(tiny.TinyConfig()))


class Matrix(nn.Module):
    """energy = Σ atoms (W₂ tanh(W₁ x)): FLOPs that can be counted on paper."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 16, bias=False), nn.Linear(16, 1, bias=False)

    def forward(self, batch: AtomicBatch) -> Outputs:
        energy = self.second(torch.tanh(self.first(batch.positions)))[:, 0]
        return Outputs(energy=energy.new_zeros(batch.n_structures).index_add(0, batch.batch, energy))


def test_counts_are_those_of_the_products_on_paper(batch: AtomicBatch) -> None:
    elements = tuple(range(1, 119))
    derived = Potential(Matrix(), derive=True, elements=elements)
    direct = Potential(Matrix(), derive=False, elements=elements)
    outer = 2 * batch.n_atoms * 16  # FLOPs of the product with W₂
    inner = 3 * outer  # and of that with W₁
    # A direct model: forward, then gradients to W₁, W₂ and to the layer between; none to the positions.
    assert count_step(direct, batch) == (inner + outer) + (inner + 2 * outer)
    # The strain: positions times a 3×3 matrix each, once forward and to both factors backward; the cells, forward.
    strain = 3 * 18 * batch.n_atoms + 54 * batch.n_structures
    prediction = (inner + outer) + (outer + inner) + strain
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
def test_a_fit_to_parts_of_a_batch_predicts_another_batch(data: Path, batch: AtomicBatch, name: str) -> None:
    architecture = tiny.architecture(name)
    graph = architecture.graph(tiny.TinyConfig())
    dataset = PackedDataset.open(data)
    potential = Potential.of(architecture, tiny.TinyConfig(), DatasetInfo.any(), seed=0)
    cost = cost_of(potential, probes(dataset.batch(range(12), graph)), lambda shape: None)
    assert cost.counted_by == "fit"
    assert cost.error < 0.01
    other = dataset.batch(range(12, 40), graph)
    assert cost.step(other.shape) == pytest.approx(count_step(potential, other), rel=0.02)
    assert cost.prediction(other.shape) == pytest.approx(count_prediction(potential, other), rel=0.05)


def test_a_formula_goes_before_the_fit_and_is_held_against_the_count(batch: AtomicBatch) -> None:
    potential = Potential.of(tiny.architecture("columns"), tiny.TinyConfig(), DatasetInfo.any(), seed=0)
    counted = count_step(potential, batch)
    cost = cost_of(potential, [batch], lambda shape: 2.0 * counted / batch.n_atoms * shape.n_atoms)
    assert cost.counted_by == "formula"
    assert cost.step(batch.shape) == pytest.approx(2 * counted)
    assert cost.error == pytest.approx(1.0)


def test_a_fit_recovers_the_coefficients_it_was_fed() -> None:
    shapes = [BatchShape(1, 4, 90, 16), BatchShape(3, 10, 150, 40), BatchShape(2, 9, 300, 41), BatchShape(5, 5, 10, 5)]
    step = fit(shapes, [7.0 * s.n_atoms + 11.0 * s.n_edges + 2.0 * s.sum_atoms_squared for s in shapes])
    fresh = BatchShape(8, 64, 1000, 600)
    assert step(fresh) == pytest.approx(7 * 64 + 11 * 1000 + 2 * 600, rel=1e-6)
    assert fit(shapes, [0.0] * 4)(fresh) == 0.0


def test_probes_of_a_single_structure_are_that_structure(batch: AtomicBatch) -> None:
    one = replace(batch.split()[0])
    assert {p.n_atoms for p in probes(one)} == {one.n_atoms}
