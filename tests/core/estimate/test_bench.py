"""What `matscale bench` measures: every path and precision of a model, held against float64 on the same batch."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from click.testing import CliRunner, Result

from matscale.cli import main
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError
from matscale.core.estimate import bench as core
from matscale.core.hosting.host import get
from matscale.core.locks import FolderLock
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import Run

SCHNET = {"hidden": 8, "filters": 8, "n_layers": 1, "n_radial": 6, "cutoff": 4.0}


@pytest.fixture(autouse=True)
def _briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("timing", "bench"):
        monkeypatch.setattr(f"matscale.core.estimate.{module}.LEAST_SECONDS", 0.0)
    monkeypatch.setattr("matscale.core.flops.peaks.measured_peak", lambda device, precision: 1e12)


def configured(data: PackedDataset, name: str = "schnet", **architecture: object) -> TrainConfig:
    values = {
        "architecture": {"name": name, "config": architecture or SCHNET},
        "data": {"path": str(data.path), "validation": 0.25},
        "batch": {"structures": 4},
        "compute": {"device": "cpu"},
    }
    return TrainConfig.parse(values)


def matscale(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", *arguments], catch_exceptions=False)


def test_errors_grow_from_float64_to_bf16_and_the_fast_path_computes_the_same(alloys: PackedDataset) -> None:
    found = core.bench(configured(alloys), get("schnet"), time_steps=1)
    rows = {(row.path, row.precision): row for row in found.rows}
    assert [*rows] == [(path, kind) for path in core.PATHS for kind in ("fp64", "fp32", "bf16")]
    assert rows["readable", "fp64"].gradient_error == rows["readable", "fp64"].loss_error == 0
    for path in ("readable", "fast"):
        double, single, half = (rows[path, kind] for kind in ("fp64", "fp32", "bf16"))
        assert double.gradient_error < 1e-12 < single.gradient_error < 1e-4 < half.gradient_error < 0.3
        assert double.forces_error < 1e-12 < single.forces_error < 1e-4 < half.forces_error < 0.3
        assert double.loss_error < 1e-12 < half.loss_error < 0.1
        for row in (double, single, half):
            assert row.atoms_per_s == pytest.approx(found.atoms / row.step_s)
            assert row.mfu == pytest.approx(found.flops_per_step / row.step_s / 1e12)
            assert row.memory_bytes > 0
            assert row.prediction_s > 0
        assert double.memory_bytes > single.memory_bytes
    assert "second derivatives" in rows["compiled", "fp32"].reason


def test_what_a_model_refuses_is_a_row_with_the_reason(alloys: PackedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(learner: object, batch: object) -> object:
        raise torch.OutOfMemoryError("Tried to allocate 1 TiB\nand more")

    config = configured(alloys, "fcn", hidden=8, depth=2)
    step = core._one_step
    monkeypatch.setattr(
        core, "_one_step", lambda learner, batch: (step if is_exact(learner) else refuse)(learner, batch)
    )

    def is_exact(learner) -> bool:
        return learner.config.compute.precision == "fp64"

    found = core.bench(config, get("fcn"), paths=["fast"], precisions=["fp64", "bf16"], time_steps=1)
    assert found.rows[0].step_s is not None
    assert found.rows[1].reason == "OutOfMemoryError: Tried to allocate 1 TiB"


@pytest.mark.parametrize(
    ("capability", "precisions"),
    [((7, 5), ("fp64", "fp32", "fp16")), ((8, 0), core.PRECISIONS), ((9, 0), core.PRECISIONS)],
)
def test_a_gpu_is_measured_in_the_precisions_that_it_has(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precisions: tuple[str, ...]
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    assert core.precisions_of(torch.device("cuda", 0)) == precisions
    assert core.precisions_of(torch.device("cpu")) == ("fp64", "fp32", "bf16")


def test_a_run_keeps_the_measurements_of_its_trained_model_as_a_ledger(make_run: Callable[..., Run]) -> None:
    run = make_run("schnet", **SCHNET)
    run.seal()
    run.save_info()
    arguments = ("--record", str(run.path), "--device", "cpu", "--path", "fast", "--time-steps", "1", "--json")
    for n in (1, 2):
        result = matscale(*arguments)
        assert result.exit_code == 0, result.stderr
        info = Run.open(run.path).info  # checks the digest
        assert len(info["precision_ledger"]) == n
        assert json.loads(result.stdout) == info["precision_ledger"][-1:]
    [entry] = json.loads(result.stdout)
    assert {row["precision"] for row in entry["rows"]} == {"fp64", "fp32", "bf16"}
    weights = core.bench(run.config, get("schnet"), run=run, paths=["fast"], precisions=["fp32"], time_steps=1)
    fresh = core.bench(run.config, get("schnet"), paths=["fast"], precisions=["fp32"], time_steps=1)
    assert weights.rows[0].gradient_error == pytest.approx(entry["rows"][1]["gradient_error"])
    assert weights.rows[0].gradient_error != pytest.approx(fresh.rows[0].gradient_error)


def test_a_run_in_training_and_a_run_with_another_model_are_refused(make_run: Callable[..., Run]) -> None:
    run = make_run("schnet", **SCHNET)
    found = core.Bench("schnet", {}, 1, 1, 1, 1.0, "fit", "cpu", "cpu", {}, "", ())
    with FolderLock(run.path), pytest.raises(ConfigError, match="is training into this folder"):
        core.record(run, found)
    result = matscale("--record", str(run.path), "--arch", "schnet")
    assert result.exit_code == 2
    assert "Leave out --arch" in result.stderr


def test_the_page_has_a_line_for_each_measurement_and_each_reason(alloys: PackedDataset) -> None:
    small = (
        "--params",
        "1k",
        "--data",
        str(alloys.path),
        "--device",
        "cpu",
        "--time-steps",
        "1",
        "--precision",
        "fp32",
    )
    result = matscale("--arch", "schnet", "--path", "fast", "--path", "compiled", *small)
    assert result.exit_code == 0, result.stderr
    for word in ("PATH", "ATOMS/S", "MFU", "GRADIENT", "fast  fp32", "compiled, fp32: torch.compile has no second"):
        assert word in result.stdout


def test_of_several_architectures_those_that_fail_are_left_out(alloys: PackedDataset) -> None:
    arguments = ("--size", "small", "--data", str(alloys.path), "--device", "cpu")
    result = matscale("--arch", "fcn", "--arch", "schnet", *arguments)
    assert result.exit_code == 2
    assert "fcn is left out: " in result.stderr
