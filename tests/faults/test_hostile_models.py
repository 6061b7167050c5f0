"""Configurations of models that no machine can build: refused by name, before they fill it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from matscale.core.errors import ConfigError
from matscale.core.estimate.describe import parameters
from matscale.core.hosting.host import get
from matscale.core.model import buildable
from matscale.core.model.architecture import DatasetInfo

HUGE = [{"hidden": 10**12}, {"hidden": 10**15}, {"embedding": 10**13}]


@pytest.mark.parametrize("values", HUGE, ids=str)
def test_a_model_that_no_machine_holds_is_refused_by_name(values):
    fcn = get("fcn")
    config = fcn.config.parse(values)
    with pytest.raises(ConfigError, match=r"architecture\.config of fcn: makes a model"):
        fcn.model(config, DatasetInfo.any(), seed=0)


@pytest.mark.parametrize("values", [{"hidden": 10**12}, {"depth": 10**9}], ids=str)
def test_its_parameters_are_not_counted_by_building_it_in_memory(values):
    with pytest.raises(ConfigError, match=r"architecture\.config of fcn: makes a model"):
        parameters(get("fcn"), get("fcn").config.parse(values))


LAYERS = [
    *(("schnet", "n_layers"), ("fcn", "depth"), ("transformer", "n_layers"), ("transformer-periodic", "n_layers")),
    *(("escaip", "n_layers"), ("eqv2", "n_layers"), ("esen", "n_layers"), ("eqv3", "n_layers")),
    *(("gemnet", "n_layers"), ("gemnet", "n_before_skip")),
]


@pytest.mark.parametrize("number", [10**6, 10**15])
@pytest.mark.parametrize(("name", "key"), LAYERS)
def test_too_many_layers_are_refused_before_a_weight_is_drawn(monkeypatch, name, key, number):
    monkeypatch.setattr(buildable, "MOST_PARTS", 300)
    built = []

    def build(config, info):
        built.append(torch.empty(0).device.type)
        return get(name).build(config, info)

    architecture = replace(get(name), build=build)
    config = architecture.config.parse({key: number})
    with pytest.raises(ConfigError, match=r"makes a model of more than 300 layers .* Give fewer layers"):
        architecture.model(config, DatasetInfo.any(), seed=0)
    assert built == ["meta"]


def test_counting_the_parts_first_changes_no_weight():
    fcn = get("fcn")
    config = fcn.config.parse({"head_width": buildable.LARGE + 1})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        direct = fcn.build(config, DatasetInfo.any()).state_dict()
    built = fcn.model(config, DatasetInfo.any(), seed=3).state_dict()
    assert all(torch.equal(built[key], value) for key, value in direct.items())
