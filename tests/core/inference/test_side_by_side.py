"""Errors by group, worst structures and several runs: what `evaluate` prints and `view` draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from click.testing import CliRunner, Result

import matscale
from matscale.cli import main
from matscale.core.data.store.packed import PackedDataset, ShardWriter
from matscale.core.errors import ConfigError, DataError
from matscale.core.inference.compare import measure
from matscale.core.inference.side_by_side import Evaluation, evaluate_runs, names_of, opened
from matscale.core.inference.survey import BINS, Survey, ranges_of, source_names
from matscale.core.runs.record import Run

MakeRun = Callable[..., Run]
TINY = {"hidden": 8, "filters": 8, "n_radial": 8, "n_layers": 1, "cutoff": 4.0}
ALL = ("element", "source", "n_atoms", "formula")


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def found(make_run: MakeRun, alloys: PackedDataset) -> Evaluation:
    return evaluate_runs(
        {"a": make_run("schnet", **TINY)}, alloys, "all", by=ALL, n_worst=4, parity=True, dtype="float64"
    )


def test_groups_add_up_to_the_whole(found: Evaluation) -> None:
    [model] = found.runs
    for way in ("source", "n_atoms", "formula"):
        groups = model.survey.groups()[way].values()
        assert sum(g["n_structures"] for g in groups) == model.metrics["n_structures"] == 24
        for key, weight in (("energy_mae", "n_structures"), ("forces_mae", "n_atoms"), ("stress_mae", "n_structures")):
            mean = sum(g[key] * g[weight] for g in groups) / sum(g[weight] for g in groups)
            assert mean == pytest.approx(model.metrics[key], rel=1e-12)


def test_a_group_is_the_evaluation_of_its_structures_alone(found: Evaluation, alloys: PackedDataset) -> None:
    [model] = found.runs
    assert model.potential is not None
    rows = np.array([k for k in range(24) if alloys[k].formula == "CuNi"])
    alone = measure(model.potential, alloys, rows)
    assert model.survey.groups()["formula"]["CuNi"] == pytest.approx(alone, rel=1e-9)


def test_an_element_has_the_forces_on_its_atoms_and_the_energies_of_its_structures(
    found: Evaluation, alloys: PackedDataset
) -> None:
    [model] = found.runs
    copper = model.survey.groups()["element"]["Cu"]
    rows = [k for k in range(24) if 29 in alloys[k].atomic_numbers]
    predicted = matscale.predict(model.potential, [alloys[k] for k in rows])
    energy = np.mean([abs(p.energy - alloys[k].energy) / len(alloys[k]) for k, p in zip(rows, predicted)])
    forces = [(p.forces - alloys[k].forces)[alloys[k].atomic_numbers == 29] for k, p in zip(rows, predicted)]
    assert copper["energy_mae"] == pytest.approx(energy, rel=1e-6)
    assert copper["forces_mae"] == pytest.approx(np.abs(np.concatenate(forces)).mean(), rel=1e-6)
    assert (copper["n_structures"], copper["n_atoms"]) == (len(rows), sum(map(len, forces)))
    assert list(model.survey.groups()["element"]) == ["Al", "Ni", "Cu"]


def test_the_worst_structures_are_those_with_the_largest_loss_of_all(found: Evaluation, alloys: PackedDataset) -> None:
    [model] = found.runs
    losses = {row: measure(model.potential, alloys, np.array([row]))["loss"] for row in range(24)}
    expected = sorted(losses, key=lambda row: -losses[row])[:4]
    worst = model.survey.worst()
    assert [bad.row for bad in worst] == expected
    assert [bad.errors["loss"] for bad in worst] == pytest.approx([losses[row] for row in expected], rel=1e-9)
    assert worst[0].formula == alloys[expected[0]].formula


def test_results_do_not_depend_on_the_batch(make_run: MakeRun, alloys: PackedDataset, found: Evaluation) -> None:
    run = next(model.run for model in found.runs)
    one = evaluate_runs({"a": run}, alloys, "all", by=ALL, n_worst=4, parity=True, dtype="float64", batch=1)
    first, second = (each.runs[0].survey for each in (one, found))
    assert [bad.row for bad in first.worst("forces")] == [bad.row for bad in second.worst("forces")]
    for way, groups in first.groups().items():
        for key, metrics in groups.items():
            assert metrics == pytest.approx(second.groups()[way][key], rel=1e-9)


def test_a_parity_plot_counts_every_label(found: Evaluation, alloys: PackedDataset) -> None:
    [model] = found.runs
    for name, n in (("energy", 24), ("forces", 24 * 2 * 3), ("stress", 24 * 6)):
        grid = model.survey.grids[name]
        assert grid.counts.sum() + grid.outside == n
    low, high = ranges_of(alloys, np.arange(24))["energy"]
    labels = alloys.energies() / 2
    expected = np.histogram(labels, BINS, (low, high))[0]
    energy = model.survey.grids["energy"]
    assert low < labels.min() < labels.max() < high
    assert (energy.counts.sum(axis=1) <= expected).all()


def test_a_survey_does_not_grow_with_the_dataset(make_run: MakeRun, alloys: PackedDataset) -> None:
    survey = Survey(alloys, ("element", "n_atoms"), 3)
    potential = matscale.load(make_run("schnet", **TINY))
    for _ in range(2):
        measure(potential, alloys, np.arange(24), survey=survey)
        assert len(survey._errors) <= 3 * 4
        assert [len(groups) for groups in survey.sums.values()] == [3, 1]


def test_several_runs_are_measured_on_what_all_of_them_hold_out(make_run: MakeRun, alloys: PackedDataset) -> None:
    data = [{"validation": 0.7, "validation_seed": k} for k in (0, 1)]
    runs = [make_run("schnet", name=f"seed{k}", training={"data": data[k]}, **TINY) for k in (0, 1)]
    found = evaluate_runs(names_of(runs), alloys, baselines=False)
    held_out = [set(evaluate_runs({"a": run}, alloys, baselines=False).rows.tolist()) for run in runs]
    assert set(found.rows.tolist()) == held_out[0] & held_out[1]
    assert [model.name for model in found.runs] == ["seed0", "seed1"]


def test_runs_that_hold_out_nothing_in_common_are_refused(make_run: MakeRun, alloys: PackedDataset) -> None:
    data = [{"validation_seed": k} for k in (0, 1)]
    runs = {str(k): make_run("schnet", name=f"r{k}", training={"data": data[k]}, **TINY) for k in (0, 1)}
    with pytest.raises(DataError, match="--split all"):
        evaluate_runs(runs, alloys)


def test_a_run_that_is_given_twice_is_refused(make_run: MakeRun) -> None:
    run = make_run("schnet", **TINY)
    with pytest.raises(ConfigError, match="given twice"):
        names_of([run, run])


def test_averaged_and_raw_weights_are_two_models(make_run: MakeRun, alloys: PackedDataset) -> None:
    kept, none = make_run("schnet", name="kept", ema=True, **TINY), make_run("schnet", name="none", **TINY)
    losses = {
        averaged: evaluate_runs({"a": kept}, alloys, averaged=averaged, baselines=False).runs[0].metrics["loss"]
        for averaged in (None, True, False)
    }
    assert losses[None] == losses[True] != losses[False]
    with pytest.raises(ConfigError, match="has no averaged weights"):
        evaluate_runs({"a": none}, alloys, averaged=True)


def test_evaluate_prints_runs_baselines_groups_and_the_worst(make_run: MakeRun, alloys: PackedDataset) -> None:
    runs = [make_run("schnet", name=name, steps=(1, 2), **TINY).path for name in ("first", "second")]
    shown = command("evaluate", *runs, "--data", alloys.path, "--by", "element", "--split", "all", "--checkpoint", 1)
    assert shown.exit_code == 0, shown.output
    errors, more, by_element, *worst = shown.stdout.split("\n\n")
    assert [line.split()[0] for line in errors.splitlines()[1:3]] == ["first", "second"]
    assert all(word in more for word in ("cosine", "isotropic", "anisotropic", "RMSE"))
    assert [line.split()[0] for line in by_element.splitlines()[1:]] == [
        z for z in ("Al", "Ni", "Cu") for _ in range(3)
    ]
    assert [text.split(" (")[0] for text in worst] == [
        f"Structures with the largest loss of {name}" for name in ("first", "second")
    ]
    plain = json.loads(command("evaluate", *runs, "--split", "all", "--by", "element", "--json").stdout)
    assert set(plain["first"]["groups"]["element"]) == {"Al", "Ni", "Cu"}
    assert len(plain["second"]["worst"]) == 5
    assert plain["second"]["checkpoint"] == 2


def test_a_file_of_structures_is_measured_without_packing_it_first(
    make_run: MakeRun, alloys: PackedDataset, tmp_path: Path
) -> None:
    run, file = make_run("schnet", **TINY), tmp_path / "some.extxyz"
    write(file, [alloys[k].to_ase() for k in range(6)])
    shown = command("evaluate", run.path, "--data", file, "--json", "--no-baselines")
    assert shown.exit_code == 0, shown.output
    assert f"{file}: measured on 6 of 6 structures" in shown.stderr
    alone = measure(matscale.load(run), alloys, np.arange(6))
    assert json.loads(shown.stdout)["schnet"]["loss"] == pytest.approx(alone["loss"], rel=1e-5)


def unlabelled(path: Path) -> Path:
    write(path, [Atoms("Cu2", [[0, 0, 0], [1.5, 1.5, 1.5]], cell=np.eye(3) * 3, pbc=True)])
    return path


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (lambda folder: unlabelled(folder / "bare.extxyz"), 3, "matscale predict"),
        (lambda folder: folder / "x.nosuchformat", 3, "There is no dataset"),
    ],
)
def test_data_that_cannot_be_measured_on_are_refused_with_what_to_do(
    make: Callable[[Path], Path], code: int, said: str, make_run: MakeRun, tmp_path: Path
) -> None:
    shown = command("evaluate", make_run("schnet", **TINY).path, "--data", make(tmp_path))
    assert (shown.exit_code, said in shown.stderr) == (code, True), shown.output


def test_a_file_that_is_of_no_known_format_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "notes.qqq").write_text("no structures here\n")
    with pytest.raises(DataError, match=r"notes\.qqq"), opened(tmp_path / "notes.qqq", []):
        pass


def test_an_unseen_element_is_named_with_the_way_out(make_run: MakeRun, alloys: PackedDataset, tmp_path: Path) -> None:
    foreign = alloys[0].to_ase()
    foreign.symbols[0] = "Au"
    foreign.calc = alloys[0].to_ase().calc
    write(tmp_path / "gold.extxyz", foreign)
    shown = command("evaluate", make_run("schnet", **TINY).path, "--data", tmp_path / "gold.extxyz")
    assert shown.exit_code == 3
    assert "Au" in shown.stderr
    assert "--skip-invalid" in shown.stderr
    assert str(tmp_path / "gold.extxyz") in shown.stderr


def test_a_run_that_ended_before_its_first_step_says_so(make_run: MakeRun) -> None:
    run = make_run("schnet", **TINY)
    run.update({"dataset": None, "status": "failed"})
    info = json.loads((run.path / "run.json").read_text())
    del info["dataset"]
    info.pop("digest", None)
    (run.path / "run.json").write_text(json.dumps(info))
    shown = command("evaluate", run.path)
    assert shown.exit_code == 2
    assert "ended before it had read its dataset" in shown.stderr


def test_a_run_without_checkpoints_says_how_to_go_on(make_run: MakeRun) -> None:
    shown = command("evaluate", make_run("schnet", steps=(), **TINY).path)
    assert shown.exit_code == 2
    assert "--resume" in shown.stderr


def test_sources_have_the_shortest_names_that_differ(tmp_path: Path, alloys: PackedDataset) -> None:
    writer = ShardWriter(tmp_path / "data")
    writer.append(alloys[0])
    writer.finish()
    dataset = PackedDataset.open(tmp_path / "data")
    assert len(source_names(dataset)) >= 1
