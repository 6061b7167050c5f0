"""SchNet against the numbers of other programs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.errors import ConfigError
from matscale.core.model.architecture import DatasetInfo, count_parameters
from matscale.core.model.outputs import model_outputs
from matscale.plugins.schnet import SIZES, SchNet, SchNetConfig, build
from matscale.plugins.schnet.fairchem.names import config_from_fairchem, load_fairchem


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    folder = shared / "golden"
    return json.loads((folder / "schnet_tiny.json").read_text()), load_file(folder / "schnet_tiny.safetensors")


@pytest.fixture(scope="module")
def model(golden: tuple) -> SchNet:
    facts, tensors = golden
    theirs = facts["variants"]["default"]["config"]
    config = config_from_fairchem(theirs)
    assert config == SchNetConfig(
        hidden=32, filters=24, n_layers=3, n_radial=40, cutoff=6.0, max_neighbors=50, max_atomic_number=99
    )
    model = SchNet(config).double().eval()
    load_fairchem(model, {name.removeprefix("weights."): tensor.double() for name, tensor in tensors.items()})
    assert count_parameters(model)["total"] == facts["variants"]["default"]["n_params"]
    return model


@pytest.fixture(scope="module")
def batch(golden: tuple) -> AtomicBatch:
    structures = [
        Structure(
            np.array(s["numbers"]), np.array(s["positions"]), np.array(s["cell"]).reshape(3, 3), np.ones(3, dtype=bool)
        )
        for s in golden[0]["inputs"]
    ]
    return collate(structures, Graph.nearest(6.0, 50), torch.float64)  # their rule: the 50 nearest


def test_the_graph_is_that_of_the_golden_run(golden: tuple, batch: AtomicBatch) -> None:
    theirs_index, theirs_vec = golden[1]["graph.edge_index"], golden[1]["graph.edge_distance_vec"]
    assert batch.edge_index is not None
    assert batch.n_edges == theirs_index.shape[1]

    def rows(index: torch.Tensor, vec: torch.Tensor) -> np.ndarray:
        table = np.column_stack([index.T.numpy(), vec.numpy()])
        return table[np.lexsort(table.round(3).T)]

    ours, theirs = rows(batch.edge_index, batch.edge_vec()), rows(theirs_index, theirs_vec)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_golden_weights_give_golden_energies_and_forces(golden: tuple, model: SchNet, batch: AtomicBatch) -> None:
    found = model_outputs(model, batch)
    energy, forces = golden[1]["out64.energy"].flatten(), golden[1]["out64.forces"]
    assert found.forces is not None
    assert (found.energy - energy).abs().max() <= 1e-8 * energy.abs().max()
    assert (found.forces - forces).abs().max() <= 1e-8 * forces.abs().max()


def test_float32_stays_as_near_to_float64_as_in_the_golden_run(
    golden: tuple, model: SchNet, batch: AtomicBatch
) -> None:
    single = SchNet(
        SchNetConfig(hidden=32, filters=24, n_layers=3, n_radial=40, cutoff=6.0, max_atomic_number=99)
    ).eval()
    single.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    found, exact = model_outputs(single, batch.to(dtype=torch.float32)), model_outputs(model, batch)
    assert found.forces is not None
    assert exact.forces is not None
    assert (found.forces.double() - exact.forces).abs().max() < 3e-5  # theirs: 1.05e-5


@pytest.mark.parametrize(("name", "n_params"), [("oc20-all", 9_088_513), ("oc20-200k", 5_704_193)])
def test_published_sizes_have_the_published_parameter_counts(name: str, n_params: int) -> None:
    with torch.device("meta"):
        assert count_parameters(build(SIZES[name], DatasetInfo.any()))["total"] == n_params


def test_an_element_without_a_row_in_the_embedding_is_refused_when_the_model_is_built() -> None:
    with pytest.raises(ConfigError, match=r"element 118.*max_atomic_number = 99"):
        build(SIZES["ladder-01"], DatasetInfo(elements=(1, 118)))


def test_an_atom_beyond_the_cutoff_has_no_influence(model: SchNet) -> None:
    alone = Structure(np.array([8]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool))
    apart = replace(alone, atomic_numbers=np.array([8, 8]), positions=np.array([[0.0, 0, 0], [6.001, 0, 0]]))
    batches = [collate([s], Graph.radius(6.0), torch.float64) for s in (alone, apart)]
    one, two = (model_outputs(model, b).energy for b in batches)
    torch.testing.assert_close(two, 2 * one, rtol=1e-14, atol=0)
