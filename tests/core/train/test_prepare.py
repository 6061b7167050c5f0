"""A model that measures something on data does so once, before the first step, and keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny
from matscale.core.data.batch import AtomicBatch
from matscale.core.errors import StoppedEarly
from matscale.core.model.architecture import Architecture
from matscale.core.runs import checkpoint
from matscale.core.runs.record import Run
from matscale.core.train.session import train

SHORT = "budget.steps=5"


class Measuring(tiny.Springs):
    """Keeps the mean distance of what it is given before the first step, and what it was then."""

    seen: Sequence[list[int]] = ()

    def __init__(self, config: tiny.TinyConfig) -> None:
        super().__init__(config)
        self.register_buffer("mean_distance", torch.zeros(()))
        self.register_buffer("first_bias", torch.full((config.width,), torch.nan))

    def prepare(self, batches: Sequence[AtomicBatch]) -> None:
        Measuring.seen = [*Measuring.seen, [b.n_structures for b in batches]]
        if self.mean_distance == 0:
            self.mean_distance.fill_(float(torch.cat([b.edge_distance() for b in batches]).mean()))
            self.first_bias.copy_(self.radial.bias)


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Architecture:
    monkeypatch.setattr(Measuring, "seen", [])
    return replace(tiny.architecture(), build=lambda config, info: Measuring(config))


def weights(run: Run) -> dict[str, torch.Tensor]:
    return checkpoint.load_weights(checkpoint.folder_of(run.checkpoint_folder, run.last))


def test_a_model_is_prepared_on_a_few_batches_before_the_first_step(
    measuring: Architecture, data: Path, tmp_path: Path
) -> None:
    run = train(tiny.configured(data, SHORT), tmp_path / "run", architecture=measuring)
    assert Measuring.seen == [[4, 4, 4, 4]]
    saved = weights(run)
    assert 1 < saved["model.mean_distance"] < 4
    assert not torch.equal(saved["model.first_bias"], saved["model.radial.bias"])  # those from before it was trained
    again = train(tiny.configured(data, SHORT), tmp_path / "again", architecture=measuring)
    assert all(torch.equal(value, weights(again)[name]) for name, value in saved.items())


def test_a_run_that_is_resumed_is_not_prepared_again(measuring: Architecture, data: Path, tmp_path: Path) -> None:
    config = tiny.configured(data, SHORT)
    unbroken = train(config, tmp_path / "unbroken", architecture=measuring)
    with pytest.raises(StoppedEarly):
        train(config, tmp_path / "run", architecture=measuring, progress=tiny.StopAt(3))
    Measuring.seen = []
    run = train(config, tmp_path / "run", architecture=measuring, resume=True)
    assert Measuring.seen == []
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(unbroken).items())


def test_a_run_that_begins_with_another_one_keeps_what_that_one_measured(
    measuring: Architecture, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(tiny.configured(data, SHORT), tmp_path / "first", architecture=measuring)
    monkeypatch.setattr("matscale.core.runs.trained_potential.architecture_of", lambda run: measuring)
    config = tiny.configured(data, f"start.run='{first.path}'", "budget.steps=2", "seed=5")
    second = train(config, tmp_path / "second", architecture=measuring)
    assert len(Measuring.seen) == 2
    assert weights(second)["model.mean_distance"] == weights(first)["model.mean_distance"]
