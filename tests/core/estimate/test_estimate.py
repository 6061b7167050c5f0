"""What an estimate says, held against the run that follows."""

from __future__ import annotations

import dataclasses
import gc
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crystals import random_structures
from matscale.core.data.neighbors import collate
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError
from matscale.core.estimate.estimate import ASSUMED_MFU, Estimate, estimate
from matscale.core.estimate.live_bytes import LiveBytes, activation_bytes, activations_of
from matscale.core.hosting.host import get
from matscale.core.model.architecture import DatasetInfo
from matscale.core.model.potential import Potential
from matscale.core.model.reference_path import reference_path
from matscale.core.runs.config import TrainConfig
from matscale.core.train.learner import Learner
from matscale.core.train.session import train

ARCHITECTURES = {
    "fcn": {"hidden": 8, "depth": 2},
    "transformer": {"width": 8, "n_heads": 1, "n_layers": 1, "feedforward": 16},
    "transformer-periodic": {"width": 8, "n_heads": 1, "n_layers": 1, "feedforward": 16, "cutoff": 4.0},
    "schnet": {"hidden": 8, "filters": 8, "n_layers": 1, "n_radial": 6, "cutoff": 4.0},
    "eqv2": {"channels": 2, "n_layers": 1, "lmax": 2, "grid_resolution": 6, "n_radial": 8, "max_neighbors": 6},
}


def configured(data: PackedDataset, name: str = "schnet", **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "architecture": {"name": name, "config": ARCHITECTURES[name]},
        "data": {"path": str(data.path), "validation": 0.25},
        "batch": {"structures": 4},
        "budget": {"epochs": 2},
        "compute": {"device": "cpu"},
        "log_every": 2,
    }
    return TrainConfig.parse({**values, **changes})


def quick(config: TrainConfig, **options: Any) -> Estimate:
    return estimate(config, time_steps=0, **options)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_steps_and_flops_are_those_of_the_run(alloys: PackedDataset, tmp_path: Path, name: str) -> None:
    config = configured(alloys, name)
    found = quick(config)
    info = train(config, tmp_path / "run").info
    assert found.steps == info["steps"]
    assert found.epochs == info["epochs"]
    assert found.flops == pytest.approx(info["flops"], rel=0.02)
    assert found.validation_flops == pytest.approx(info["validation_flops"], rel=0.02)
    assert found.parameters == info["parameters"]
    size = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert found.disk_bytes == pytest.approx(size, rel=0.6)  # a model this small is all headers


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": {"structures": 4, "accumulate": 3}},
        {"batch": {"atoms": 9}, "budget": {"steps": 7}},
        {"evaluation": {"every": 2}, "budget": {"steps": 5}},
        {"budget": {"epochs": 3}, "evaluation": {"every_epochs": 2}},
    ],
)
def test_accumulation_budgets_and_validations_are_accounted_for(
    alloys: PackedDataset, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = configured(alloys, "fcn", **changes)
    found = quick(config)
    info = train(config, tmp_path / "run").info
    assert found.steps == info["steps"]
    assert found.flops == pytest.approx(info["flops"], rel=0.02)
    assert found.validation_flops == pytest.approx(info["validation_flops"], rel=1e-6)


def test_a_budget_of_flops_gives_the_steps_it_pays_for(alloys: PackedDataset, tmp_path: Path) -> None:
    per_step = quick(configured(alloys, "fcn")).flops_per_step
    config = configured(alloys, "fcn", budget={"max_flops": 6.5 * per_step})
    assert quick(config).steps == train(config, tmp_path / "run").info["steps"] == 6


def test_a_budget_smaller_than_one_step_is_refused(alloys: PackedDataset) -> None:
    with pytest.raises(ConfigError, match="is too small for one step"):
        quick(configured(alloys, budget={"max_flops": 10}))


def test_a_budget_of_time_gives_steps_by_the_assumed_speed(alloys: PackedDataset) -> None:
    long = quick(configured(alloys, budget={"max_time": 3600}), device="A100", mfu=0.1)
    assert long.steps == pytest.approx(3600 * 0.1 * 19.5e12 / long.flops_per_step, rel=1e-6)


def test_time_on_a_named_device_is_flops_over_peak_and_assumed_share(alloys: PackedDataset) -> None:
    config = configured(alloys, compute={"precision": "tf32", "device": "cpu"})
    found = quick(config, device="NVIDIA A100-SXM4-40GB", mfu=0.2)
    assert found.seconds == pytest.approx((found.flops + found.validation_flops) / (0.2 * 156e12))
    assert found.device_hours == found.seconds / 3600
    assert (found.seconds_by, found.peak_by, found.mfu) == ("peak × MFU", "table", 0.2)
    assert found.memory_bytes < 50e6  # of the device: no process in it
    assert quick(config, device="A100").mfu == ASSUMED_MFU


def test_without_steps_time_on_this_machine_is_its_measured_peak_over_the_assumed_share(alloys: PackedDataset) -> None:
    found = quick(configured(alloys))
    assert (found.seconds_by, found.peak_by) == ("peak × MFU", "measured")
    assert found.seconds > 0


def test_timed_steps_say_so_and_reach_a_share_of_the_peak(alloys: PackedDataset) -> None:
    config = configured(alloys)
    found = estimate(config, time_steps=2)
    assert found.seconds_by == "timed on this machine"
    assert 0 < found.mfu < 1.5
    assert found.seconds > found.flops / found.peak_flops_per_s
    assert dataclasses.asdict(found) == found.plain()


def test_estimating_writes_nothing_beside_the_data(alloys: PackedDataset) -> None:
    before = {path: path.stat().st_mtime_ns for path in alloys.path.rglob("*") if "radius-3.7" in str(path)}
    config = configured(alloys)
    architecture = {"name": "schnet", "config": {**ARCHITECTURES["schnet"], "cutoff": 3.7}}
    quick(config.model_copy(update={"architecture": TrainConfig.parse({"architecture": architecture}).architecture}))
    assert not before
    assert not list(alloys.path.rglob("*radius-3.7*"))


@pytest.mark.parametrize("mfu", [0.0, -1.0, 1.5])
def test_an_impossible_share_of_the_peak_is_refused(alloys: PackedDataset, mfu: float) -> None:
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        estimate(configured(alloys), mfu=mfu)


def test_an_unknown_device_is_refused_with_the_nearest(alloys: PackedDataset) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'A100'"):
        estimate(configured(alloys), device="A1000")


# Memory ---------------------------------------------------------------------------------------------------------------


def test_live_bytes_follow_what_is_made_and_freed() -> None:
    with LiveBytes() as watch:
        a = torch.ones(1000)
        b = a[10:] * 2  # 990 numbers; the view is nothing new
        c = b.exp()
        assert watch.live == 4 * (1000 + 990 + 990)
        del a, c
        gc.collect()
        assert watch.live == 4 * 990
        del b
    assert watch.peak == 4 * (1000 + 990 + 990)


def test_what_the_backward_needs_stays_alive_until_it_has_run() -> None:
    weight = torch.ones(100, 100, requires_grad=True)
    with LiveBytes() as watch:
        x: Tensor = torch.ones(50, 100) @ weight
        for _ in range(10):
            x = torch.tanh(x)
        kept = watch.live
        x.sum().backward()
    assert kept >= 11 * 4 * 50 * 100
    assert watch.peak < kept + 4 * (4 * 50 * 100 + 2 * 100 * 100)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_activations_of_a_large_batch_follow_from_those_of_single_structures(name: str) -> None:
    architecture = get(name)
    config = architecture.config.parse(ARCHITECTURES[name])
    graph = architecture.graph(config)
    potential = Potential.of(architecture, config, DatasetInfo.any(), seed=0)
    structures = [s for s in random_structures(40) if len(s.atomic_numbers) > 1]
    singles = [collate([s], graph) for s in structures[:8]]
    large = collate(structures[8:20], graph)
    with reference_path():  # eqv2's fast form works through its edges in chunks
        expected = activations_of(potential, [*singles, collate([structures[0]] * 2, graph)])
        assert expected(large.shape) == pytest.approx(activation_bytes(potential, large), rel=0.2)


@pytest.mark.parametrize("name", ["schnet", "eqv2"])
def test_activations_without_and_with_timed_steps_agree(alloys: PackedDataset, name: str) -> None:
    config = configured(alloys, name, batch={"structures": 8})
    assert quick(config).activation_bytes == pytest.approx(estimate(config, time_steps=1).activation_bytes, rel=0.25)


def test_activations_are_those_of_the_steps_of_training_by_the_path_that_it_takes(
    alloys: PackedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against torch's own record of allocations. EquiformerV2's reference path takes several times as much."""
    small = {**ARCHITECTURES["eqv2"], "channels": 8, "n_layers": 2, "grid_resolution": 10, "max_neighbors": 20}
    config = configured(alloys, "eqv2", architecture={"name": "eqv2", "config": small}, batch={"structures": 8})
    estimates = [quick(config).activation_bytes, estimate(config, time_steps=1).activation_bytes]
    with reference_path():
        reference = estimate(config, time_steps=1).activation_bytes
    peaks, gradient = list[int](), Learner.gradient

    def watched(*arguments: Any, **options: Any) -> Any:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
            found = gradient(*arguments, **options)
        assert record.profiler is not None
        changes = [e.nbytes() for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
        peaks.append(max(accumulate(changes)))
        return found

    monkeypatch.setattr(Learner, "gradient", watched)
    train(config, tmp_path / "run")
    assert len(peaks) > 2
    for found in estimates:
        assert found == pytest.approx(max(peaks), rel=0.2)
    assert reference > 2 * max(peaks)
