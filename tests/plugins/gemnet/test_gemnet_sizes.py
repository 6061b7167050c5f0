"""The published sizes of GemNet, the ladder, and configurations that say two things."""

from __future__ import annotations

import pytest
import torch

from matscale.core.data.graph import Graph
from matscale.core.errors import ConfigError
from matscale.core.model.architecture import DatasetInfo, count_parameters
from matscale.plugins.gemnet import SIZES, GemNet, GemNetConfig, build, graph, ladder
from matscale.plugins.gemnet.layers import Scale


@pytest.mark.parametrize(
    ("name", "parameters", "scales"),
    [("oc20-dT", 31_671_808, 17), ("oc20-OC", 38_864_384, 54), ("oc20-OC-large", 216_408_064, 80)],
)
def test_published_sizes_have_the_published_numbers_of_parameters_and_scale_factors(name, parameters, scales) -> None:
    with torch.device("meta"):
        model = GemNet(SIZES[name])
    assert count_parameters(model)["total"] == parameters
    assert sum(isinstance(m, Scale) for m in model.modules()) == scales


def test_a_model_asks_for_the_widest_of_its_graphs() -> None:
    assert graph(SIZES["oc20-dT"]) == Graph.nearest(6.0, 50)
    assert graph(SIZES["oc20-OC"]) == Graph.nearest(12.0, 1000)
    assert graph(GemNetConfig(quadruplets=True, max_neighbors=20, cutoff_quadruplets=7.0)) == Graph.radius(7.0)
    assert graph(GemNetConfig(atom_atom=True, cutoff=5.0, cutoff_atom_atom=8.0)) == Graph.radius(8.0)


@pytest.mark.parametrize("n_params", [5_000, 60_000, 150_000, 400_000])
def test_the_ladder_never_takes_fewer_gaussians_than_a_width_has(n_params) -> None:
    config = ladder(n_params)
    assert config.n_radial >= min(128, 2 * config.edge_channels)


def test_an_option_of_an_interaction_that_is_off_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cutoff_atom_atom = 8.0 belongs .*set atom_atom = true"):
        GemNetConfig.parse({"cutoff_atom_atom": 8.0})
    with pytest.raises(ConfigError, match="set atom_edge or edge_atom = true"):
        GemNetConfig.parse({"max_neighbors_atom_edge": 3})


def test_an_element_beyond_the_table_is_refused_by_name_of_the_option() -> None:
    config = GemNetConfig(n_layers=1, atom_channels=4, edge_channels=4, max_atomic_number=83)
    with pytest.raises(ConfigError, match="element 92, but max_atomic_number = 83"):
        build(config, DatasetInfo(elements=(8, 92)))


def test_flops_of_a_plan_without_batches_are_near_those_of_the_batch(alloys) -> None:
    from dataclasses import replace

    from matscale.plugins.gemnet.flops import step_flops

    pairs = {"atom_edge": True, "edge_atom": True, "atom_atom": True, "quadruplets": True}
    for options in ({"max_neighbors": 30}, {"cutoff": 5.0, "cutoff_atom_atom": 6.0, **pairs}):
        config = GemNetConfig.parse(options)
        shape = alloys.batch(range(24), graph(config)).shape
        assert step_flops(config, replace(shape, batch=None)) == pytest.approx(step_flops(config, shape), rel=0.2)
