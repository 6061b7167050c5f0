"""Scales and references around a model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from matscale.core.contract import structures
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate
from matscale.core.errors import DataError
from matscale.core.model.outputs import Outputs
from matscale.core.model.potential import Potential, Scales


class Ones(nn.Module):
    def forward(self, data: AtomicBatch) -> Outputs:
        return Outputs(
            data.positions.new_ones(data.n_structures),
            torch.ones_like(data.positions),
            torch.ones_like(data.cell),
        )


class Repulsion(nn.Module):
    def forward(self, data: AtomicBatch) -> Outputs:
        d = data.edge_distance()
        return Outputs(d.new_zeros(data.n_structures).index_add(0, data.batch[data.edges()[1]], 1 / d))


def references() -> torch.Tensor:
    return -torch.arange(119.0)


def test_direct_outputs_get_their_scales_and_energies_their_references() -> None:
    potential = Potential(
        Ones(), derive=False, elements=(8, 13, 14, 29), references=references(), scales=Scales(2, 3, 5)
    )
    found = potential(collate([structures.crystal(), structures.metal()]))
    assert found.energy.tolist() == [2 - 8 - 14 - 29 - 13, 2 - 29]
    assert (found.forces == 3).all()
    assert (found.stress == 5).all()


def test_derived_forces_and_stress_scale_with_the_energy() -> None:
    batch = collate([structures.crystal()], Graph.radius(5.0), torch.float64)
    plain, scaled = (
        Potential(Repulsion(), derive=True, elements=(8, 13, 14, 29), scales=scales)(batch)
        for scales in (Scales(), Scales(2, 3, 5))
    )
    torch.testing.assert_close(scaled.energy, 2 * plain.energy)
    torch.testing.assert_close(scaled.forces, 2 * plain.forces)
    torch.testing.assert_close(scaled.stress, 2 * plain.stress)


def test_references_stay_exact_whatever_type_the_model_is_given() -> None:
    exact = torch.full((119,), -1000.000123, dtype=torch.float64)
    potential = Potential(Ones(), derive=False, elements=(29,), references=exact).bfloat16()
    assert torch.equal(potential.references, exact)
    assert potential.scales.dtype == torch.float64
    assert potential(collate([structures.metal()], dtype=torch.bfloat16)).energy.item() == 1 - 1000.000123


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_direct_outputs_are_scaled_in_the_precision_of_the_batch(precision: torch.dtype) -> None:
    class Half(Ones):
        def forward(self, data: AtomicBatch) -> Outputs:
            ones = super().forward(data)
            assert ones.forces is not None
            assert ones.stress is not None
            return Outputs(ones.energy.to(precision), ones.forces.to(precision), ones.stress.to(precision))

    scales = Scales(2.0, 3.0001, 5.0001)  # neither has room in half precision
    found = Potential(Half(), derive=False, elements=(29,), scales=scales)(collate([structures.metal()]))
    assert found.forces.dtype == found.stress.dtype == torch.float32
    assert (found.forces == torch.tensor(3.0001)).all()
    assert (found.stress == torch.tensor(5.0001)).all()


def test_history_is_kept_in_training_only() -> None:
    batch = collate([structures.crystal()], Graph.radius(5.0))
    potential = Potential(nn.Sequential(Repulsion()), derive=True, elements=(8, 13, 14, 29))
    assert potential.train()(batch).forces.requires_grad
    assert not potential.eval()(batch).forces.requires_grad


def test_unseen_elements_are_refused_by_name() -> None:
    potential = Potential(Ones(), derive=False, elements=(8, 13, 14))
    with pytest.raises(DataError, match=r"not trained on Cu \(Z = 29\).*It knows: O, Al, Si"):
        potential.check_elements(collate([structures.crystal()]))
