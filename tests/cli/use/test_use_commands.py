"""`matscale evaluate`, `predict` and `baselines` as they are typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import read, write
from click.testing import CliRunner, Result

from matscale.cli import main
from matscale.core.data.split import split
from matscale.core.data.store.packed import PackedDataset
from matscale.core.runs.record import Run

MakeRun = Callable[..., Run]
TINY = {"hidden": 8, "filters": 8, "n_radial": 8, "n_layers": 1, "cutoff": 4.0}
BASELINES = ["zero", "mean", "composition", "nearest"]


def matscale(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_baselines_prints_a_row_for_each(alloys: PackedDataset) -> None:
    result = matscale("baselines", "--data", alloys.path, "--validation", 0.25)
    assert result.exit_code == 0, result.output
    rows = result.stdout.splitlines()
    assert [row.split()[0] for row in rows[1:]] == BASELINES
    assert "GPa" in rows[0]


def test_baselines_as_json_are_in_ev_units_by_name(alloys: PackedDataset) -> None:
    shown = matscale("baselines", "--data", alloys.path, "--validation", 0.25, "--json")
    models = json.loads(shown.stdout)
    assert list(models) == BASELINES
    for metrics in models.values():
        assert {"loss", "energy_mae", "forces_mae", "stress_mae"} <= set(metrics)
    held_out = split(alloys, 0.25, 0).validation
    by_hand = np.abs(alloys.energies(held_out) / alloys.n_atoms[held_out]).mean()
    assert models["zero"]["energy_mae"] == pytest.approx(by_hand)
    table = matscale("baselines", "--data", alloys.path, "--validation", 0.25).stdout.splitlines()
    assert float(table[1].split()[2]) == pytest.approx(1e3 * models["zero"]["energy_mae"], abs=0.05)
    assert float(table[1].split()[5]) == pytest.approx(160.2176634 * models["zero"]["stress_mae"], abs=5e-4)


def test_the_split_follows_the_seed(alloys: PackedDataset) -> None:
    line = ("baselines", "--data", alloys.path, "--by", "structure", "--json", "--seed")
    shown = [matscale(*line, seed).stdout for seed in (0, 0, 1)]
    assert shown[0] == shown[1] != shown[2]


def test_evaluate_measures_the_model_beside_the_baselines(make_run: MakeRun, alloys: PackedDataset) -> None:
    run = make_run("schnet", **TINY)
    result = matscale("evaluate", run.path, "--data", alloys.path, "--json")
    assert result.exit_code == 0, result.output
    models = json.loads(result.stdout)
    assert list(models) == ["schnet", *BASELINES]
    assert models["schnet"]["n_structures"] == models["zero"]["n_structures"] < len(alloys)
    # The split of the run and that of `baselines` are one.
    apart = matscale("baselines", "--data", alloys.path, "--validation", 0.25, "--json")
    assert json.loads(apart.stdout)["nearest"] == models["nearest"]


def test_evaluate_takes_the_data_of_the_run_by_default(make_run: MakeRun, alloys: PackedDataset) -> None:
    run = make_run("schnet", **TINY)
    named = matscale("evaluate", run.path, "--data", alloys.path)
    assert matscale("evaluate", run.path).stdout == named.stdout
    assert matscale("evaluate", run.path, "--split", "all").stdout != named.stdout


def test_evaluate_without_baselines_is_the_model_alone(make_run: MakeRun) -> None:
    shown = matscale("evaluate", make_run("schnet", **TINY).path, "--no-baselines", "--json")
    assert list(json.loads(shown.stdout)) == ["schnet"]


def test_evaluate_goes_on_without_baselines_when_the_training_data_are_gone(
    make_run: MakeRun, alloys: PackedDataset, tmp_path: Path
) -> None:
    run = make_run("schnet", **TINY)
    config = run.path / "config.toml"
    config.write_text(config.read_text().replace(str(alloys.path), str(tmp_path / "gone")))
    info = run.path / "run.json"
    info.write_text(info.read_text().replace(alloys.hash, "of another dataset"))
    result = matscale("evaluate", run.path, "--data", alloys.path, "--json")
    assert result.exit_code == 0, result.output
    assert list(json.loads(result.stdout)) == ["schnet"]
    assert "No baselines" in result.stderr


def test_a_folder_that_is_no_run_ends_with_code_2(tmp_path: Path) -> None:
    result = matscale("evaluate", tmp_path)
    assert result.exit_code == 2
    assert "is not a run folder" in result.stderr


def test_predict_writes_every_structure(make_run: MakeRun, tmp_path: Path) -> None:
    write(tmp_path / "in.extxyz", [bulk("Cu"), bulk("Al"), bulk("Ni", cubic=True)])
    run = make_run("schnet", **TINY)
    result = matscale("predict", run.path, tmp_path / "in.extxyz", "-o", tmp_path / "out.extxyz", "--batch", 2)
    assert result.exit_code == 0, result.output
    assert "3 structures" in result.stdout
    assert [len(a) for a in read(tmp_path / "out.extxyz", ":")] == [1, 1, 4]


def test_predict_ends_with_code_3_at_an_unseen_element_unless_told_to_skip(make_run: MakeRun, tmp_path: Path) -> None:
    write(tmp_path / "in.extxyz", [bulk("Cu"), molecule("H2O")])
    line = ("predict", make_run("schnet", **TINY).path, tmp_path / "in.extxyz", "-o", tmp_path / "out.extxyz")
    refused = matscale(*line)
    assert refused.exit_code == 3
    assert "H (Z = 1)" in refused.stderr
    skipping = matscale(*line, "--skip-invalid")
    assert skipping.exit_code == 0, skipping.output
    assert "Left out structure 1" in skipping.stderr
    assert "1 structure, 1 left out" in skipping.stdout


def test_a_model_is_trained_measured_and_used(alloys: PackedDataset, tmp_path: Path) -> None:
    run, small = tmp_path / "run", "architecture.config={hidden = 8, filters = 8, n_layers = 1, cutoff = 4.0}"
    line = ("train", "--arch", "schnet", "--data", alloys.path, "--set", small, "--steps", 2, "-q", "-o", run)
    trained = matscale(*line, "--set", "data.validation=0.25")
    assert trained.exit_code == 0, trained.output
    measured = matscale("evaluate", run)
    assert measured.exit_code == 0, measured.output
    first = measured.stdout.partition("\n\n")[0]
    assert first.startswith("model ")
    assert first in trained.stdout  # the table at the end of training is the first of `evaluate`
    write(tmp_path / "in.extxyz", [alloys[k].to_ase() for k in range(3)])
    used = matscale("predict", run, tmp_path / "in.extxyz", "-o", tmp_path / "out.extxyz")
    assert used.exit_code == 0, used.output
    assert read(tmp_path / "out.extxyz").get_potential_energy() != pytest.approx(alloys[0].energy)
