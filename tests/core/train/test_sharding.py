"""Weights, gradients and moments divided among processes: the curve of one process, and any number to resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_distributed import CHANGES, codes, launch
from torch import nn

import tiny
from curves import Case, curve, on_processes
from matscale.core.errors import ConfigError
from matscale.core.runs import checkpoint
from matscale.core.runs.record import Run
from matscale.core.train.processes.sharding import placed, sharded, whole
from matscale.core.train.processes.world import World
from matscale.core.train.session import train

SCHNET = "architecture.config={hidden=8, filters=8, n_layers=1, n_radial=8, cutoff=4.0}"
DIVIDED = "compute.sharding=state"


@pytest.mark.slow
def test_divided_weights_have_the_losses_of_one_process(data: Path, tmp_path: Path) -> None:
    cases = [
        Case(str(data), (SCHNET, "batch={structures=5, accumulate=2}"), "schnet", 6),  # 32 structures: uneven steps
        Case(str(data), ("batch={structures=2, accumulate=3}",), "columns", 8),
    ]
    divided = [Case(c.data, (*c.changes, DIVIDED), c.name, c.steps) for c in cases]
    for case, found in zip(cases, on_processes(2, divided, tmp_path)):
        one = curve(case, World())
        for key in ("loss", "norm", "weights"):
            np.testing.assert_allclose(found[key], one[key], rtol=1e-10, err_msg=f"{case.name}: {key}")


@pytest.mark.long
@pytest.mark.parametrize(("first", "then"), [((2, "state"), (1, "none")), ((1, "none"), (2, "state"))])
def test_a_checkpoint_of_divided_weights_is_one_of_whole_weights(
    data: Path, tmp_path: Path, first: tuple[int, str], then: tuple[int, str]
) -> None:
    run = tmp_path / "run"
    whole_run = train(tiny.configured(data, *CHANGES), tmp_path / "whole", architecture=tiny.architecture())
    assert codes(launch(first[0], run, data, *CHANGES, f"compute.sharding={first[1]}", stop=6)) == [5] * first[0]
    saved = checkpoint.load(checkpoint.folder_of(run / "checkpoints", 6))
    assert {*saved.model} == {*(saved.ema or {})}
    changes = (*CHANGES, f"compute.sharding={then[1]}")
    assert codes(launch(then[0], run, data, *changes, resume=True)) == [0] * then[0]
    ours, theirs = list(whole_run.metrics()), list(Run.open(run).metrics())
    assert [(row["step"], row["split"]) for row in ours] == [(row["step"], row["split"]) for row in theirs]
    for mine, yours in zip(ours, theirs):
        for key in ("structures", "loss", "objective", "forces_cos", "stress_mae"):
            assert yours[key] == pytest.approx(mine[key], rel=1e-9)


def test_a_scalar_parameter_is_refused_by_name() -> None:
    module = nn.Linear(2, 2)
    module.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(ConfigError, match=r"the parameter scale is a scalar.*shape \[1\]"):
        sharded(module, 2)


def test_what_does_not_work_with_divided_weights_is_refused(data: Path) -> None:
    for other in ("compute.compile=true", "compute.precision=fp16"):
        with pytest.raises(ConfigError, match="works neither with compile nor with the gradient scaler of fp16"):
            tiny.configured(data, DIVIDED, other)


def test_one_process_divides_nothing(data: Path, tmp_path: Path) -> None:
    tensor = torch.ones(3)
    assert whole(tensor) is tensor
    assert torch.equal(placed(tensor, torch.zeros(3)), tensor)
    run = train(tiny.configured(data, DIVIDED, "budget.steps=2"), tmp_path / "run", architecture=tiny.architecture())
    assert run.info["status"] == "completed"
