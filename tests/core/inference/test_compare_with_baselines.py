"""A run is measured on the right structures, exactly, beside baselines that learned from its training part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import matscale
from matscale.core.baselines import fit_baselines
from matscale.core.data.split import split
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError, DataError
from matscale.core.inference.compare import FILE, baselines_of, compare, measure, rows_of
from matscale.core.model.outputs import Outputs
from matscale.core.runs.record import Run

TINY = {"hidden": 8, "filters": 8, "n_radial": 8, "n_layers": 1, "cutoff": 4.0}
MakeRun = Callable[..., Run]


def moved(run: Run, path: Path) -> Run:
    """The run as if its data had been at `path`."""
    run.config = run.config.model_copy(update={"data": run.config.data.model_copy(update={"path": str(path)})})
    return run


def test_a_run_is_measured_on_its_own_validation_part(make_run: MakeRun, alloys: PackedDataset) -> None:
    run = make_run("schnet", **TINY)
    expected = split(alloys, 0.25, 0)
    assert rows_of(run, alloys).tolist() == expected.validation.tolist()
    assert sorted(rows_of(run, alloys, "train").tolist()) == sorted(expected.train.tolist())
    assert rows_of(run, alloys, "all").tolist() == list(range(len(alloys)))


def test_another_dataset_is_measured_whole_and_has_no_validation_part(make_run: MakeRun, alloys: PackedDataset) -> None:
    run = make_run("schnet", **TINY)
    run.info["dataset"]["hash"] = "that of other data"
    assert len(rows_of(run, alloys)) == len(alloys)
    with pytest.raises(ConfigError, match="no validation part"):
        rows_of(run, alloys, "validation")


@pytest.mark.parametrize(
    ("architecture", "config"), [("schnet", TINY), ("fcn", {"hidden": 8, "embedding": 8, "depth": 1})]
)
def test_errors_do_not_depend_on_the_batch_size(
    architecture: str, config: dict[str, int], make_run: MakeRun, alloys: PackedDataset
) -> None:
    potential = matscale.load(make_run(architecture, **config), dtype="float64")
    some = np.arange(7)
    one, all_at_once = (measure(potential, alloys, some, batch) for batch in (1, 7))
    assert one["forces_mae"] > 1e-3
    assert one == pytest.approx(all_at_once, rel=1e-10)


def test_an_element_that_was_not_in_training_stops_the_evaluation(make_run: MakeRun, alloys: PackedDataset) -> None:
    run = make_run("schnet", **TINY)
    run.info["dataset_info"]["elements"] = [13, 29]
    with pytest.raises(DataError, match=r"Ni \(Z = 28\)"):
        measure(matscale.load(run), alloys, np.arange(len(alloys)))


def test_a_perfect_model_has_no_errors(make_run: MakeRun, alloys: PackedDataset) -> None:
    """So that a sign or a unit which is wrong on the way from model to metrics cannot hide."""
    potential = matscale.load(make_run("schnet", **TINY), dtype="float64")
    truth = alloys.batch(np.arange(5), dtype=potential.references.dtype)

    outputs = Outputs(energy=truth.energy, forces=truth.forces, stress=truth.stress)
    potential.forward = lambda batch: outputs  # type: ignore[method-assign]
    metrics = measure(potential, alloys, np.arange(5), batch=5)
    assert metrics["loss"] == 0.0
    assert metrics["forces_cos"] == pytest.approx(1.0)


def test_baselines_learn_from_the_training_part_of_the_run(make_run: MakeRun, alloys: PackedDataset) -> None:
    run = make_run("schnet", training={"data": {"path": str(alloys.path), "validation": 0.25, "count": 5}}, **TINY)
    expected = fit_baselines(alloys, split(alloys, 0.25, 0).take(count=5))
    found = baselines_of(run)
    assert {name: b.plain() for name, b in found.items()} == {name: b.plain() for name, b in expected.items()}


def test_baselines_stay_with_the_run_when_its_data_are_gone(
    make_run: MakeRun, alloys: PackedDataset, tmp_path: Path
) -> None:
    run = make_run("schnet", **TINY)
    before = compare(run, alloys)
    assert (run.path / FILE).exists()
    assert compare(moved(Run.open(run.path), tmp_path / "gone"), alloys) == before


def test_without_data_or_stored_baselines_there_are_none(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone"):
        baselines_of(moved(make_run("schnet", **TINY), tmp_path / "gone"))


def test_data_that_changed_since_the_run_are_not_taken_for_its_own(make_run: MakeRun) -> None:
    run = make_run("schnet", **TINY)
    run.info["dataset"]["hash"] = "that of other data"
    with pytest.raises(DataError, match="is not the dataset that"):
        baselines_of(run)


def test_damaged_baselines_are_named_and_measured_again(make_run: MakeRun) -> None:
    run = make_run("schnet", **TINY)
    before = baselines_of(run)
    (run.path / FILE).write_text(json.dumps({"mean": {"energy_per_atom": None}}))
    with pytest.warns(UserWarning, match=r"baselines\.json: is damaged .* The baselines are fitted again"):
        after = baselines_of(run)
    assert {name: one.plain() for name, one in after.items()} == {name: one.plain() for name, one in before.items()}
