"""The page of predictions: which structures it holds, with which predictions, and what it says of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.io import write
from click.testing import CliRunner, Result
from PIL import Image

import matscale
from matscale.cli import main
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError, DataError
from matscale.core.inference.side_by_side import Evaluation, evaluate_runs, names_of
from matscale.core.runs.record import Run
from matscale.core.view.gather import View, choose, gather, thinned
from matscale.core.view.gif import write_gif
from matscale.core.view.page import page, plain, scripts

MakeRun = Callable[..., Run]
TINY = {"hidden": 8, "filters": 8, "n_radial": 8, "n_layers": 1, "cutoff": 4.0}


def evaluated(dataset: PackedDataset, *runs: Run, **options: Any) -> Evaluation:
    options = {"by": ("element", "source", "n_atoms"), "n_worst": 8, "parity": True, **options}
    return evaluate_runs(names_of(runs), dataset, "all", **options)


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["view", *(str(a) for a in arguments)])


@pytest.fixture
def view(make_run: MakeRun, alloys: PackedDataset) -> View:
    runs = [make_run("schnet", name=name, steps=steps, **TINY) for name, steps in (("a", (1, 5, 9)), ("b", (3,)))]
    return gather(evaluated(alloys, *runs), 10)


def test_half_of_the_structures_have_the_largest_errors_and_the_rest_are_random(view: View) -> None:
    kinds = [one.why for one in view.shown]
    assert [("large error" in kind, kind == "random") for kind in kinds] == [(True, False)] * 5 + [(False, True)] * 5
    assert len({one.row for one in view.shown}) == 10
    worst = view.evaluation.runs[0].survey.worst("forces")[0]
    assert view.shown[0].row == worst.row
    assert choose(view.evaluation, 10, 0) == choose(view.evaluation, 10, 0) != choose(view.evaluation, 10, 1)


def test_a_row_that_is_asked_for_comes_first(view: View, alloys: PackedDataset) -> None:
    assert gather(view.evaluation, 3, rows=[17]).shown[0].row == 17
    with pytest.raises(DataError, match=r"row 99 .*--split all"):
        choose(view.evaluation, 3, 0, [99])


def test_every_stored_step_is_predicted_as_by_itself(view: View, alloys: PackedDataset) -> None:
    one = view.shown[3]
    assert sorted(one.predictions["a"]) == [1, 5, 9]
    assert sorted(one.predictions["b"]) == [3]
    run = view.evaluation.runs[0].run
    for step in (1, 5, 9):
        [alone] = matscale.predict(matscale.load(run, step), [alloys[one.row]])
        shown = one.predictions["a"][step]
        assert shown.energy == pytest.approx(alone.energy, rel=1e-6)
        np.testing.assert_allclose(shown.forces, alone.forces, rtol=1e-4, atol=1e-6)


def test_predictions_that_a_run_kept_in_training_are_more_steps(make_run: MakeRun, alloys: PackedDataset) -> None:
    run = make_run("schnet", steps=(9,), **TINY)
    found = evaluated(alloys, run)
    kept = {"index": 4, "energy": 1.5, "forces": [[0.1, 0, 0], [0, 0, 0]], "stress": np.eye(3).tolist()}
    (run.path / "samples.json").write_text(json.dumps([{"index": 4}]))
    for step in (2, 4):
        run.samples.append({"step": step, "predictions": [kept]})
    view = gather(found, 10)
    [one] = [one for one in view.shown if one.row == 4]
    assert sorted(one.predictions["schnet"]) == [2, 4, 9]
    assert one.predictions["schnet"][2].energy == 1.5
    assert [sorted(other.predictions["schnet"]) for other in view.shown if other.row != 4] == [[9]] * 9


def test_a_damaged_checkpoint_is_left_out_with_a_note(make_run: MakeRun, alloys: PackedDataset) -> None:
    run = make_run("schnet", steps=(1, 2), **TINY)
    found = evaluated(alloys, run)
    (run.checkpoint_folder / "step_1/model.safetensors").write_bytes(b"broken")
    view = gather(found, 4)
    assert sorted(view.shown[0].predictions["schnet"]) == [2]
    assert "Step 1 of schnet is not shown" in view.notes[0]


def test_the_page_says_what_it_measured_and_how_much_of_it_it_holds(view: View) -> None:
    text = page(view, "matscale view a b")
    assert "This page holds 10 of them: 5 with the largest errors, 5 drawn at random" in text
    assert "Measured on 24 structures of" in text
    assert "of the best baseline" in text
    assert all(f"<h1>Predictions of {name}" in text for name in ("a, b",))
    assert text.count('data-structure="') == 10
    assert "matscale view a b" in text


def test_the_page_needs_nothing_from_elsewhere(view: View) -> None:
    text = page(view)
    for script in scripts():
        assert text.count(script) == 1
        text = text.replace(script, "")
    assert not re.findall(r"https?://", text)
    assert not re.findall(r"<(?:script|img|iframe|link)[^>]*\s(?:src|href)=\"(?!data:)", text)


def test_names_are_text_and_never_markup(view: View) -> None:
    for one in view.shown:
        object.__setattr__(one, "source", "</script><img src=x onerror=alert(1)>")
    text = page(view, "<script>alert(1)</script>")
    for script in scripts():
        text = text.replace(script, "")
    assert "<img" not in text
    assert "<script>alert" not in text


def test_the_data_of_the_page_are_labels_and_predictions(view: View, alloys: PackedDataset) -> None:
    data = plain(view)
    shown, truth = data["structures"][0], alloys[view.shown[0].row]
    assert shown["forces"] == pytest.approx(truth.forces.reshape(-1), rel=1e-4)
    assert shown["energy"] == truth.energy
    assert [[step for step, *_ in run] for run in shown["predictions"]] == [[1, 5, 9], [3]]
    counted = sum(count for *_, count in data["runs"][0]["grids"]["forces"]["cells"])
    assert counted + data["runs"][0]["grids"]["forces"]["outside"] == 24 * 2 * 3
    assert [group["name"] for group in data["groups"]][:2] == ["a", "b"]
    assert len(data["groups"]) == 3  # and the best baseline
    assert set(data["groups"][0]["ways"]["element"]) == {"Al", "Ni", "Cu"}
    json.dumps(data, allow_nan=False)


@pytest.mark.long
def test_a_gif_has_a_frame_for_each_step(make_run: MakeRun, alloys: PackedDataset, tmp_path: Path) -> None:
    view = gather(evaluated(alloys, make_run("schnet", steps=(1, 2), **TINY)), 2)
    assert write_gif(view, tmp_path / "x.gif") == 2
    with Image.open(tmp_path / "x.gif") as image:
        assert image.n_frames >= 2


def test_a_gif_of_one_step_is_refused_with_what_to_do(make_run: MakeRun, alloys: PackedDataset, tmp_path: Path) -> None:
    view = gather(evaluated(alloys, make_run("schnet", **TINY), baselines=False), 2)
    with pytest.raises(ConfigError, match=r"checkpoint\.keep"):
        write_gif(view, tmp_path / "x.gif")


def test_steps_are_thinned_with_the_ends() -> None:
    assert thinned(list(range(100)), 4) == [0, 33, 66, 99]


def test_the_command_writes_the_page_and_says_where(make_run: MakeRun, alloys: PackedDataset, tmp_path: Path) -> None:
    output = tmp_path / "v.html"
    shown = command(make_run("schnet", **TINY).path, "-o", output, "--structures", 3, "--no-baselines")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == f"{output}  {output.stat().st_size / 1e6:.1f} MB, 3 of 4 structures\n"
    assert output.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["-o", "{folder}/no/x.html"], 2, "there is no folder"),
        (["--gif", "{folder}/x.png"], 2, "ends in .gif"),
        (["--data", "{folder}/bare.extxyz", "-o", "{folder}/v.html"], 3, "has a label"),
        (["--data", "{folder}/notes.qqq", "-o", "{folder}/v.html"], 3, "notes.qqq"),
        (["--row", "999", "--split", "all", "-o", "{folder}/v.html"], 3, "row 999"),
        (["--checkpoint", "7", "-o", "{folder}/v.html"], 2, "has no checkpoint '7'"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_what_to_do(
    arguments: list[str], code: int, said: str, make_run: MakeRun, alloys: PackedDataset, tmp_path: Path
) -> None:
    bare = alloys[0].to_ase()
    bare.calc = None
    write(tmp_path / "bare.extxyz", bare)
    (tmp_path / "notes.qqq").write_text("no structures\n")
    run = make_run("schnet", **TINY)
    shown = command(run.path, *(text.format(folder=tmp_path) for text in arguments))
    assert (shown.exit_code, said in shown.stderr) == (code, True), shown.output
    assert not (tmp_path / "v.html").exists()


@pytest.mark.long
def test_a_run_of_an_architecture_that_is_not_installed_says_what_to_install(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("schnet", **TINY)
    config, info = run.path / "config.toml", run.path / "run.json"
    config.write_text(config.read_text().replace('"schnet"', '"elsewhere"'))
    text = json.loads(info.read_text())
    text["architecture"] = {"name": "elsewhere", "distribution": "matscale-elsewhere", "version": "1.2"}
    text.pop("digest", None)
    info.write_text(json.dumps(text))
    shown = command(run.path, "-o", tmp_path / "v.html")
    assert shown.exit_code == 2
    assert "pip install matscale-elsewhere==1.2" in shown.stderr
