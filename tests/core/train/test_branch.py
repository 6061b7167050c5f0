"""A run that branches off another computes what a run of its own would, and counts what it shares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_resume import assert_same, numbers, weights

import tiny
from matscale.core.errors import ConfigError, StoppedEarly
from matscale.core.runs.record import Run
from matscale.core.train.session import train

LENGTH, LEAVES = 20, 12
COOLED = ("schedule.kind=wsd", f"schedule.decay={(LENGTH - LEAVES) / LENGTH}", "schedule.warmup=0.0")


@pytest.fixture(scope="module", params=["springs", "columns"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trunk(name: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run at a constant rate that goes beyond the step where others leave it."""
    constant = ("schedule.kind=constant", "schedule.warmup=0.0", "budget.steps=16", f"checkpoint.at=[5, {LEAVES}]")
    config = tiny.configured(data, *constant, "checkpoint.keep=1", name=name)
    return train(config, tmp_path_factory.mktemp("trunk") / "run", architecture=tiny.architecture(name))


def branch(trunk: Run, data: Path, *assignments: str) -> list[str]:
    return [*COOLED, f"start.run='{trunk.path}'", f"start.checkpoint='{LEAVES}'", "start.branch=true", *assignments]


def test_a_trunk_keeps_the_checkpoints_that_runs_branch_off(trunk: Run) -> None:
    assert {5, LEAVES} <= set(trunk.checkpoints())
    assert len(trunk.checkpoints()) < 6  # those of every third step are gone


def test_a_branch_equals_a_run_of_its_length_from_nothing(trunk: Run, name: str, data: Path, tmp_path: Path) -> None:
    architecture = tiny.architecture(name)
    alone = train(tiny.configured(data, *COOLED, name=name), tmp_path / "alone", architecture=architecture)
    config = tiny.configured(data, *branch(trunk, data), name=name)
    branched = train(config, tmp_path / "branch", architecture=architecture)
    for ours, theirs in zip(weights(branched).values(), weights(alone).values()):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    for key in ("steps", "structures", "atoms", "edges", "flops"):
        assert branched.info[key] == alone.info[key]
    after = [row for row in numbers(alone) if row["step"] > LEAVES]
    assert [row["step"] for row in numbers(branched)] == [row["step"] for row in after]
    for ours, theirs in zip(numbers(branched), after):
        assert ours["objective"] == pytest.approx(theirs["objective"], rel=1e-9)


def test_what_a_branch_shares_with_its_trunk_is_said(trunk: Run, name: str, data: Path, tmp_path: Path) -> None:
    config = tiny.configured(data, *branch(trunk, data), name=name)
    info = train(config, tmp_path / "branch", architecture=tiny.architecture(name)).info
    at_leaving = next(row for row in trunk.metrics("train") if row["step"] == LEAVES)
    assert info["flops_shared"] == at_leaving["flops"]
    assert 0 < info["flops_shared"] < info["flops"]
    assert 0 < info["wall_s_shared"] < info["wall_s"]
    assert info["best"]["step"] > LEAVES


def test_a_branch_that_is_stopped_resumes_bit_for_bit(trunk: Run, name: str, data: Path, tmp_path: Path) -> None:
    config, architecture = tiny.configured(data, *branch(trunk, data), name=name), tiny.architecture(name)
    unbroken = train(config, tmp_path / "unbroken", architecture=architecture)
    with pytest.raises(StoppedEarly):
        train(config, tmp_path / "run", architecture=architecture, progress=tiny.StopAt(LEAVES + 3))
    assert_same(train(config, tmp_path / "run", resume=True, architecture=architecture), unbroken)


def test_a_branch_must_train_as_its_trunk_did(trunk: Run, name: str, data: Path, tmp_path: Path) -> None:
    config = tiny.configured(data, *branch(trunk, data, "optimizer.lr=0.5"), name=name)
    with pytest.raises(ConfigError, match=r"optimizer\.lr is 0\.001 in the trunk, 0\.5 in the branch"):
        train(config, tmp_path / "run", architecture=tiny.architecture(name))


def test_a_branch_leaves_at_a_step_that_was_kept(trunk: Run, name: str, data: Path, tmp_path: Path) -> None:
    config = tiny.configured(data, *branch(trunk, data, "start.checkpoint='7'"), name=name)
    with pytest.raises(ConfigError, match=rf"no checkpoint '7'.*5, {LEAVES}"):
        train(config, tmp_path / "run", architecture=tiny.architecture(name))


@pytest.mark.parametrize("flops", [7e9, None], ids=["known", "imported"])
def test_what_a_trunk_began_with_counts_for_its_branches(
    trunk: Run, name: str, data: Path, tmp_path: Path, flops: float | None
) -> None:
    trunk.update({"start": {"run": "runs/first", "step": 3, "not_taken": {}, "flops": flops}})
    try:
        config = tiny.configured(data, *branch(trunk, data), name=name)
        info = train(config, tmp_path / "branch", architecture=tiny.architecture(name)).info
    finally:
        trunk.update({"start": None})
    assert info["start"]["run"] == str(trunk.path)
    assert info["start"]["flops"] == flops
