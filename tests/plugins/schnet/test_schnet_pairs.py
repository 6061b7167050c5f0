"""SchNet with one filter for a bond, summed over images, against a filter for each edge."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from matscale.core.contract.structures import crystal, metal, molecule, slab
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate
from matscale.core.model.architecture import DatasetInfo
from matscale.core.model.outputs import model_outputs
from matscale.core.model.reference_path import reference_path
from matscale.plugins.schnet import SchNet, SchNetConfig, build
from matscale.plugins.schnet.pairs import Pairs

GRAPHS = {"radius": Graph.radius(5.0), "nearest": Graph.nearest(5.0, 9), "short": Graph.radius(2.0)}


@pytest.fixture(scope="module")
def model() -> SchNet:
    torch.manual_seed(0)
    model = build(SchNetConfig(hidden=10, filters=7, n_radial=8, n_layers=2, cutoff=5.0), DatasetInfo.any()).double()
    with torch.no_grad():
        for parameter in model.parameters():  # biases too, and a last layer that is not small
            parameter.add_(0.3 * torch.randn_like(parameter))
    assert isinstance(model, SchNet)
    return model


def batch(name: str) -> AtomicBatch:
    return collate([crystal(), metal(), slab(), molecule()], GRAPHS[name], torch.float64)


def derivatives(model: SchNet, data: AtomicBatch) -> list[Tensor]:
    """Outputs, and the gradient in the weights of a loss on forces and stress."""
    out = model_outputs(model, data, create_graph=True)
    assert out.forces is not None
    assert out.stress is not None
    loss = out.energy.sum() + out.forces.square().sum() + out.stress.nan_to_num().square().sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return [out.energy.detach(), out.forces.detach(), out.stress.nan_to_num().detach(), *gradients]


@pytest.mark.parametrize("name", GRAPHS)
def test_bonds_and_sums_over_images_change_no_number(model: SchNet, name: str) -> None:
    data = batch(name)
    found = derivatives(model, data)
    with reference_path():
        expected = derivatives(model, data)
    assert expected[1].norm(dim=1).mean() > 1e-3  # forces that are not all zero
    for x, y in zip(found, expected):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)


def test_an_edge_and_its_reverse_are_one_bond_and_images_are_summed_before_products() -> None:
    data = batch("radius")
    pairs = Pairs.of(data)
    assert 2 * len(pairs.distance) == data.n_edges
    assert pairs.images is not None
    assert pairs.images.n_out < len(pairs.distance) // 2


def test_a_neighbour_that_was_not_chosen_in_return_gets_no_message() -> None:
    data = batch("nearest")
    pairs = Pairs.of(data)
    assert data.n_edges // 2 < len(pairs.distance) < data.n_edges
    source, target = data.edges()
    keys = target * data.n_atoms + source
    found = pairs.targets.out * data.n_atoms + pairs.sources.taken
    assert torch.equal(found.sort()[0], keys.unique())


def test_an_edge_that_is_listed_twice_counts_twice(model: SchNet) -> None:
    data = batch("short")
    assert data.edge_index is not None
    assert data.edge_shift is not None
    one_way = (data.edge_index[0] > data.edge_index[1]).nonzero().squeeze(1)
    twice = torch.cat([one_way, one_way]).sort()[0]
    data = AtomicBatch(
        **{
            **vars(data),
            "edge_index": data.edge_index.index_select(1, twice),
            "edge_shift": data.edge_shift.index_select(0, twice),
        }
    )
    found = model_outputs(model, data)
    with reference_path():
        expected = model_outputs(model, data)
    torch.testing.assert_close(found.energy, expected.energy)
    assert len(Pairs.of(data).distance) == len(one_way)
