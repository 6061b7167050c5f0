"""Fine-tuning: a run that begins with the model of another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner, Result

import matscale
from matscale.cli import main
from matscale.core.data.neighbors import collate
from matscale.core.data.store.packed import PackedDataset
from matscale.core.runs.record import Run

MakeRun = Callable[..., Run]
TINY = {"hidden": 8, "filters": 8, "n_radial": 8, "n_layers": 1, "cutoff": 4.0}


def fine_tune(data: PackedDataset, source: Path, target: Path, *more: object) -> Result:
    arguments = ["train", "--from", source, "--data", data.path, "-o", target, "--steps", 1, "--device", "cpu", "-q"]
    return CliRunner().invoke(main, [str(a) for a in (*arguments, *more)])


def test_a_step_too_small_to_matter_leaves_the_predictions_of_the_other_run(
    make_run: MakeRun, alloys: PackedDataset, tmp_path: Path
) -> None:
    source = make_run("schnet", **TINY)
    result = fine_tune(alloys, source.path, tmp_path / "tuned", "--lr", 1e-12)
    assert result.exit_code == 0, result.output
    structures = [alloys.structure(k) for k in range(4)]
    outputs = []
    for path in (source.path, tmp_path / "tuned"):
        potential = matscale.load(path)
        outputs.append(potential(collate(structures, potential.graph)))
    assert outputs[0].forces.abs().max() > 1e-3
    torch.testing.assert_close(outputs[1].energy, outputs[0].energy, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(outputs[1].forces, outputs[0].forces, rtol=1e-4, atol=1e-6)
    run = Run.open(tmp_path / "tuned")
    assert run.config.architecture.config["hidden"] == 8
    assert run.info["start"] == {"run": str(source.path), "step": 1, "not_taken": {}, "flops": 0.0}


def test_training_goes_on_from_there_and_can_be_resumed(
    make_run: MakeRun, alloys: PackedDataset, tmp_path: Path
) -> None:
    source = make_run("schnet", **TINY)
    assert fine_tune(alloys, source.path, tmp_path / "tuned", "--lr", 0.01).exit_code == 0
    before, after = (matscale.load(p).state_dict() for p in (source.path, tmp_path / "tuned"))
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("model."))
    assert torch.equal(before["scales"], after["scales"])
    resumed = CliRunner().invoke(main, ["train", "--resume", "-q", "-o", str(tmp_path / "tuned")])
    assert resumed.exit_code == 0, resumed.output


def test_what_an_imported_model_cost_is_not_known_to_any_run_that_goes_back_to_it(
    make_run: MakeRun, alloys: PackedDataset, tmp_path: Path
) -> None:
    source = make_run("schnet", **TINY)
    source.update({"imported": {"file": "weights.pt"}})
    for first, second in ((source.path, tmp_path / "tuned"), (tmp_path / "tuned", tmp_path / "again")):
        assert fine_tune(alloys, first, second).exit_code == 0
        assert Run.open(second).info["start"]["flops"] is None


def test_a_model_that_differs_is_refused_and_partly_taken_on_request(
    make_run: MakeRun, alloys: PackedDataset, tmp_path: Path
) -> None:
    source = make_run("schnet", **TINY)
    other = ("--set", "architecture.config.n_layers=2")
    refused = fine_tune(alloys, source.path, tmp_path / "strict", *other)
    assert refused.exit_code == 2
    assert "(new)" in refused.stderr
    assert "--partial" in refused.stderr
    result = fine_tune(alloys, source.path, tmp_path / "partial", "--partial", "--lr", 1e-12, *other)
    assert result.exit_code == 0, result.output
    not_taken = Run.open(tmp_path / "partial").info["start"]["not_taken"]
    assert not_taken
    assert set(not_taken.values()) == {"new"}
    before, after = (matscale.load(p).state_dict() for p in (source.path, tmp_path / "partial"))
    shared = [name for name in before if name.startswith("model.")]
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in shared)
    assert {f"model.{name}" for name in not_taken} == {n for n in after if n.startswith("model.")} - set(shared)


def test_elements_that_the_other_run_has_not_seen_are_refused_by_name(
    make_run: MakeRun, alloys: PackedDataset, tmp_path: Path
) -> None:
    source = make_run("schnet", **TINY)
    source.update({"dataset_info": {**source.info["dataset_info"], "elements": [13, 29]}})
    refused = fine_tune(alloys, source.path, tmp_path / "strict")
    assert refused.exit_code == 2
    assert "was not trained on Ni" in refused.stderr
    assert fine_tune(alloys, source.path, tmp_path / "partial", "--partial").exit_code == 0
    old, new = (matscale.load(p).references.numpy() for p in (source.path, tmp_path / "partial"))
    np.testing.assert_array_equal(new[[13, 29]], old[[13, 29]])


def test_a_folder_whose_run_was_refused_can_be_used_again(
    make_run: MakeRun, alloys: PackedDataset, tmp_path: Path
) -> None:
    source = make_run("schnet", **TINY)
    source.update({"dataset_info": {**source.info["dataset_info"], "elements": [13, 29]}})
    target = tmp_path / "tuned"
    assert fine_tune(alloys, source.path, target).exit_code == 2
    assert Run.open(target).info["status"] == "failed"
    assert fine_tune(alloys, source.path, target, "--partial").exit_code == 0
    run = Run.open(target)
    assert (run.info["status"], run.info["error"], run.config.start.partial) == ("completed", None, True)
    again = fine_tune(alloys, source.path, target, "--partial")
    assert again.exit_code == 2
    assert "there is a run already" in again.stderr


def test_a_run_that_failed_after_its_first_step_stays(make_run: MakeRun, alloys: PackedDataset, tmp_path: Path) -> None:
    run = make_run("schnet", **TINY)
    run.update({"status": "failed"})
    result = fine_tune(alloys, run.path, run.path)
    assert result.exit_code == 2
    assert "there is a run already" in result.stderr


def test_partial_without_a_run_is_refused(alloys: PackedDataset, tmp_path: Path) -> None:
    arguments = ["train", "--arch", "schnet", "--partial", "--data", str(alloys.path), "-o", str(tmp_path / "run")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "--from" in result.stderr


def test_a_folder_that_is_no_run_is_refused(alloys: PackedDataset, tmp_path: Path) -> None:
    result = fine_tune(alloys, tmp_path, tmp_path / "run")
    assert result.exit_code == 2
    assert "is not a run folder" in result.stderr
