"""Configurations of models that no machine can build: refused by name, before they fill it."""

from __future__ import annotations

import pytest

from matscale.core.errors import ConfigError
from matscale.core.estimate.describe import parameters
from matscale.core.hosting.host import get
from matscale.core.model.architecture import DatasetInfo

HUGE = [{"hidden": 10**12}, {"hidden": 10**18}, {"embedding": 10**13}]


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
