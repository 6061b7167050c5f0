"""Forces and stress as derivatives of an energy that is known in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from matscale.core.contract import structures
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate
from matscale.core.model.outputs import Outputs, model_outputs, strained


class Springs(nn.Module):
    """E = k/2 Σ_pairs (d − 2)², pairs taken from the edges; two atoms at distance 2.5 with k = 3 pull with 1.5 eV/Å."""

    def __init__(self, k: float = 3.0) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def forward(self, data: AtomicBatch) -> Outputs:
        d = data.edge_distance()
        energy = 0.25 * self.k * (d - 2).square()  # each pair is listed twice
        return Outputs(d.new_zeros(data.n_structures).index_add(0, data.batch[data.edges()[1]], energy))


class Silent(nn.Module):
    """An energy that has nothing to do with the geometry."""

    def forward(self, data: AtomicBatch) -> Outputs:
        return Outputs(data.atoms_per_structure.double())


class Plain(nn.Module):
    """Predicts everything itself."""

    def forward(self, data: AtomicBatch) -> Outputs:
        return Outputs(data.volume(), data.positions * 2, data.cell * 3)


def pair() -> AtomicBatch:
    return collate([structures.structure([14, 8], [[0, 0, 0], [2.5, 0, 0]])], Graph.radius(4.0), torch.float64)


def chain() -> AtomicBatch:
    """One atom every 2.5 Å along x, 10 Å apart along y and z: neighbours are its own images."""
    return collate([structures.structure([14], [[0, 0, 0]], np.diag([2.5, 10, 10]))], Graph.radius(4.0), torch.float64)


def test_forces_point_downhill() -> None:
    found = model_outputs(Springs(), pair())
    torch.testing.assert_close(found.energy, torch.tensor([0.375], dtype=torch.float64))
    torch.testing.assert_close(found.forces, torch.tensor([[1.5, 0, 0], [-1.5, 0, 0]], dtype=torch.float64))


def test_a_stretched_chain_is_under_tension_which_is_positive() -> None:
    found = model_outputs(Springs(), chain())
    expected = torch.zeros(1, 3, 3, dtype=torch.float64)
    expected[0, 0, 0] = 1.5 / 100  # pull per cross-section: 1.5 eV/Å over 100 Å², in eV/Å³
    torch.testing.assert_close(found.stress, expected)
    assert found.forces is not None
    assert found.forces.abs().max() < 1e-12


def test_stress_agrees_with_ase_for_the_same_energy() -> None:
    """ASE's Lennard-Jones, whose stress is its own code, has the same sign and unit."""
    from ase.calculators.lj import LennardJones

    class LJ(nn.Module):
        def forward(self, data: AtomicBatch) -> Outputs:
            d = data.edge_distance()
            shift = 4 * 0.3 * ((2.2 / 7.0) ** 12 - (2.2 / 7.0) ** 6)
            e = 0.5 * (4 * 0.3 * ((2.2 / d) ** 12 - (2.2 / d) ** 6) - shift)
            return Outputs(d.new_zeros(data.n_structures).index_add(0, data.batch[data.edges()[1]], e))

    crystal = structures.crystal()
    atoms = crystal.to_ase()
    atoms.calc = LennardJones(sigma=2.2, epsilon=0.3, rc=7.0, smooth=False)
    found = model_outputs(LJ(), collate([crystal], Graph.radius(7.0), torch.float64))
    assert found.forces is not None
    assert found.stress is not None
    np.testing.assert_allclose(found.energy, [atoms.get_potential_energy()], rtol=1e-9)
    np.testing.assert_allclose(found.forces, atoms.get_forces(), atol=1e-8)
    np.testing.assert_allclose(found.stress[0], atoms.get_stress(voigt=False), atol=1e-10)


def test_without_a_volume_there_is_no_stress_and_forces_are_unharmed() -> None:
    found = model_outputs(Springs(), pair())
    assert found.stress is not None
    assert found.stress.isnan().all()
    assert found.forces is not None
    assert found.forces.isfinite().all()


def test_an_energy_without_geometry_has_zero_forces_and_stress() -> None:
    found = model_outputs(Silent(), chain())
    assert torch.equal(found.forces, torch.zeros(1, 3, dtype=torch.float64))
    assert torch.equal(found.stress, torch.zeros(1, 3, 3, dtype=torch.float64))


def test_what_a_model_predicts_itself_is_kept() -> None:
    batch = chain()
    for derive in (True, False):
        found = model_outputs(Plain(), batch, derive=derive)
        assert torch.equal(found.forces, 2 * batch.positions)
        assert torch.equal(found.stress, 3 * batch.cell)


def test_training_on_forces_reaches_the_parameters_by_double_backward() -> None:
    model = Springs(3.0)

    def loss() -> Tensor:
        found = model_outputs(model, pair(), create_graph=True)
        assert found.forces is not None
        return found.forces.square().sum()

    loss().backward()
    # F = k/2 on either atom: loss = k²/2, slope k.
    assert model.k.grad is not None
    torch.testing.assert_close(model.k.grad, torch.tensor(3.0, dtype=torch.float64))


def test_evaluation_keeps_no_history_even_where_gradients_are_off() -> None:
    with torch.no_grad():
        found = model_outputs(Springs(), pair())
    assert found.forces is not None
    assert not found.energy.requires_grad
    assert not found.forces.requires_grad
    assert found.forces.abs().max() > 1


@pytest.mark.parametrize("sign", [1, -1])
def test_only_the_symmetric_part_of_a_strain_acts(sign: int) -> None:
    batch = replace(chain(), positions=torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64))
    turn = torch.tensor([[[0, 1.0, 0], [-1, 0, 0], [0, 0, 0]]], dtype=torch.float64) * 0.01 * sign
    assert torch.equal(strained(batch, turn).positions, batch.positions)
    stretch = torch.diag(torch.tensor([0.1, 0, 0], dtype=torch.float64))[None]
    torch.testing.assert_close(strained(batch, stretch + turn).positions, torch.tensor([[1.1, 2, 3]]).double())


def test_a_strain_of_another_shape_is_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(3, 3\), the batch needs \(1, 3, 3\)"):
        strained(chain(), torch.zeros(3, 3))
