"""Options with values that mean nothing: a sentence, never a traceback or a plan for less than one parameter."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

import matscale
from matscale.cli import main
from matscale.core.data.split import split
from matscale.core.errors import ConfigError


@pytest.mark.parametrize("command", [["baselines"], ["data", "refs", "x"], ["data", "stats", "x"], ["train"]])
def test_a_negative_seed_is_a_usage_error(command):
    result = CliRunner().invoke(main, [*command, "--seed", "-1"])
    assert (result.exit_code, "-1 is not in the range x>=0" in result.stderr) == (2, True)


@pytest.mark.parametrize("seeds", [{"seed": -1}, {"seed": 0, "order_seed": -1}])
def test_a_negative_seed_of_a_split_is_refused(seeds):
    with pytest.raises(ConfigError, match="seed = -1: must not be negative"):
        split(range(10), 0.2, by="structure", **seeds)


@pytest.mark.parametrize("aim", [{"flops": 1.0}, {"loss": 1e300}, {"loss": 1000.0}])
def test_a_plan_far_below_all_runs_is_refused(aim):
    sizes = (1e3, 4e3, 16e3, 64e3)
    rows = [
        {"n": n, "d": d, "c": 6 * n * d, "loss": 1 + 40 * n**-0.4 + 90 * d**-0.5, "seed": 0}
        for n in sizes
        for d in sizes
    ]
    with pytest.raises(ConfigError, match=r"less than a 30th of the smallest compute seen \(6e\+06\)"):
        matscale.plan(rows, samples=50, **aim)
