"""GemNet-T, -dT and -OC against fairchem's own numbers."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from matscale.core.errors import ConfigError, DataError
from matscale.core.model.architecture import count_parameters
from matscale.core.model.outputs import model_outputs
from matscale.plugins.gemnet.fairchem.names import fairchem_name, state_from_fairchem
from matscale.plugins.gemnet.fairchem.options import config_from_fairchem
from matscale.plugins.gemnet.geometry import Geometry
from matscale.plugins.gemnet.layers import Scale

MODELS = [("t", "direct"), ("t", "gradient"), ("oc", "direct")]


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference over largest value."""
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


@pytest.mark.parametrize(
    ("name", "variant", "dtype", "tolerance"),
    [
        ("t", "direct", torch.float64, 1e-12),
        ("t", "gradient", torch.float64, 1e-12),
        ("oc", "direct", torch.float64, 1e-5),  # fairchem's OC computes in float32 only
        ("t", "direct", torch.float32, 1e-5),
        ("t", "gradient", torch.float32, 2e-5),
        ("oc", "direct", torch.float32, 5e-5),
    ],
)
def test_energy_and_forces_are_those_of_fairchem(golden, name, variant, dtype, tolerance) -> None:
    theirs = golden(name, variant)
    outputs = model_outputs(theirs.model(dtype), theirs.batch(dtype), derive=variant == "gradient").detach()
    assert relative(outputs.energy, theirs.tensors["out64.energy"].flatten()) < tolerance
    assert relative(outputs.forces, theirs.tensors["out64.forces"]) < tolerance


@pytest.mark.parametrize(("name", "variant"), MODELS)
def test_all_of_the_weights_are_taken_and_nothing_else(golden, name, variant) -> None:
    theirs = golden(name, variant)
    model = theirs.model(torch.float64)
    scales = sum(isinstance(m, Scale) for m in model.modules())
    assert count_parameters(model)["total"] + scales == theirs.facts["n_params"]
    ours = {fairchem_name(key, theirs.config) for key in model.state_dict()} - {"energy.out", "along.out"}
    rest = {key for key in theirs.weights if key not in ours and not key.endswith("rbf.offset")}
    # What is left are the last layers, which we keep in one tensor, and a second name for the layers before them.
    assert all(re.search(r"out_(energy|forces)\.|out_blocks\.\d+\.(layers|seq_energy)\.", key) for key in rest)


@pytest.mark.parametrize(("name", "variant"), MODELS)
def test_the_model_finds_the_edges_that_fairchem_found_before_it_made_them_symmetric(golden, name, variant) -> None:
    theirs = golden(name, variant)
    geometry = Geometry.of(theirs.config, theirs.batch(torch.float64))
    source, target = theirs.tensors["graph.edge_index"]
    is_kept = source < target
    kept = geometry.edges.source < geometry.edges.target
    assert int(kept.sum()) == int(is_kept.sum()) > 50
    expected = theirs.tensors["graph.edge_distance_vec"][is_kept].norm(dim=1).sort().values
    torch.testing.assert_close(geometry.edges.distance[kept].sort().values, expected, rtol=1e-6, atol=1e-6)


def test_weights_of_other_options_are_refused_by_name(golden) -> None:
    theirs = golden("t", "direct")
    model, weights = theirs.model(torch.float64), theirs.weights
    with pytest.raises(DataError, match=r"no 'mlp_rbf_h.linear.weight'"):
        state_from_fairchem(model, {k: v for k, v in weights.items() if k != "mlp_rbf_h.linear.weight"})
    with pytest.raises(DataError, match=r"dense.linear.weight has shape \[24, 63\] where \[24, 64\] is needed"):
        state_from_fairchem(model, {**weights, "edge_emb.dense.linear.weight": torch.zeros(24, 63)})


def test_options_without_a_counterpart_are_refused(golden) -> None:
    options = golden("oc", "direct").facts["config"]
    with pytest.raises(ConfigError, match=r"sbf = .*spherical_harmonics.* gemnet supports only .*legendre_outer"):
        config_from_fairchem({**options, "sbf": {"name": "spherical_harmonics"}})
    with pytest.raises(ConfigError, match="forces_coupled = True"):
        config_from_fairchem({**options, "forces_coupled": True})
