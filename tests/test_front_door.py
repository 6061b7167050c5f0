"""`import matscale`: what its functions take, what they give, and what they say to wrong arguments."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import write
from click.testing import CliRunner

import matscale
from matscale.cli import main
from matscale.core.data.graph import Graph
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError, DataError, MatscaleError, NonFinitePrediction
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import Run
from matscale.core.train import session

FUNCTIONS = [name for name in matscale._LAZY if name != "Structure"]


def test_the_public_names_are_listed_and_importing_them_is_left_for_later() -> None:
    code = "import sys, matscale; assert 'torch' not in sys.modules; print(*(n for n in dir(matscale) if n[0] != '_'))"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {*FUNCTIONS, "Structure", "hookimpl"} <= {*listed}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_wrong_keyword_is_answered_with_the_nearest_right_one(name: str) -> None:
    function = getattr(matscale, name)
    known = list(function.__wrapped__.__annotations__)[-2]
    with pytest.raises(ConfigError, match=rf"matscale\.{name} has no argument '{known}x'\. Did you mean '{known}'"):
        function("somewhere", **{f"{known}x": 1})


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(ConfigError, match=r"matscale\.predict: missing a required argument: 'structures'"):
        matscale.predict("runs/first")


def test_a_function_can_be_handed_to_another_process_by_its_public_name() -> None:
    assert (matscale.load.__module__, matscale.load.__qualname__) == ("matscale", "load")


# train ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TrainConfig, Path, bool]]:
    """(configuration, folder, resume) of what `train` would begin; nothing is trained."""
    found = []
    monkeypatch.setattr(session, "train", lambda config, path, **rest: found.append((config, path, rest["resume"])))
    return found


def test_a_file_keywords_and_values_mean_the_same_run(begun: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('seed = 3\n[architecture]\nname = "fcn"\n[budget]\nsteps = 7\n[optimizer]\nlr = 0.01\n')
    keywords = {"arch": "fcn", "steps": 7, "seed": 3, "quiet": True}
    matscale.train(str(file))
    matscale.train(**keywords, lr=0.01)
    matscale.train(**keywords, set={"optimizer.lr": 0.01})
    matscale.train({"architecture": {"name": "fcn"}}, steps=7, seed=3, lr=0.01)
    matscale.train(begun[0][0])
    assert len({config.model_dump_json() for config, *_ in begun}) == 1
    assert len(begun) == 5
    assert begun[0][0].budget.steps == 7


def test_keywords_count_more_than_a_file_and_the_folder_is_the_one_that_is_named(begun: list[Any]) -> None:
    matscale.train(
        {"architecture": {"name": "fcn"}, "seed": 1},
        params="2k",
        seed=2,
        data=Path("emt"),
        output="runs/x",
        set=["log_every=3"],
    )
    [(config, folder, resume)] = begun
    assert (config.seed, config.data.path, config.log_every, folder, resume) == (2, "emt", 3, "runs/x", False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, 'Say which architecture to train: .*arch="schnet"'),
        ({"arch": "schent"}, "Did you mean 'schnet'"),
        ({"arch": "fcn", "params": "many"}, "params = 'many' is not a number of parameters"),
        ({"arch": "fcn", "steps": "many"}, "budget.steps = 'many'"),
        ({"arch": "fcn", "set": {"optimizer.lrr": 1}}, "unknown key 'optimizer.lrr'. Did you mean 'lr'"),
        ({"arch": "fcn", "resume": True}, "output="),
        ({"config": 3}, "config is of type int"),
    ],
)
def test_what_does_not_go_together_is_refused(begun: list[Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        matscale.train(**arguments)
    assert not begun


# Use -----------------------------------------------------------------------------------------------------------------


def test_evaluate_gives_the_numbers_of_the_command(make_run: Callable[..., Run]) -> None:
    run = make_run("schnet", hidden=8)
    result = CliRunner().invoke(main, ["evaluate", str(run.path), "--no-baselines", "--json", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    found = matscale.evaluate(run.path)
    assert len(found) > 10
    assert found.items() <= {k: v for k, v in json.loads(result.stdout)["schnet"].items() if k != "worst"}.items()


def test_structures_and_the_dataset_that_holds_them_have_the_same_errors(
    make_run: Callable[..., Run], alloys: PackedDataset
) -> None:
    run = make_run("schnet", hidden=8)
    potential = matscale.load(run, dtype="float64")
    structures = [alloys.structure(row) for row in range(len(alloys))]
    whole = matscale.evaluate(run, data=alloys, split="all", dtype="float64")
    assert whole["forces_mae"] > 1e-3
    assert matscale.evaluate(potential, alloys) == pytest.approx(whole)
    assert matscale.evaluate(potential, structures, batch=7) == pytest.approx(whole)
    assert matscale.evaluate(potential, [s.to_ase() for s in structures]) == pytest.approx(whole)


def test_predictions_come_in_order_whatever_the_batch(make_run: Callable[..., Run], tmp_path: Path) -> None:
    run = make_run("schnet", hidden=8)
    crystals = [bulk("Cu"), bulk("Al", cubic=True), bulk("Ni")]
    write(tmp_path / "in.extxyz", crystals)
    one_by_one = [matscale.predict(run, crystal)[0].energy for crystal in crystals]
    for given in (crystals, iter(crystals), tmp_path / "in.extxyz", [matscale.Structure.from_ase(a) for a in crystals]):
        assert [p.energy for p in matscale.predict(run, given, batch=2)] == pytest.approx(one_by_one, rel=1e-4)
    crystals[1].calc = matscale.calculator(run)
    assert crystals[1].get_potential_energy() == pytest.approx(one_by_one[1], rel=1e-4)


@pytest.mark.parametrize(
    ("structures", "error", "message"),
    [
        ([bulk("Cu"), bulk("Fe")], DataError, "structure 1: The model was not trained on Fe"),
        ([bulk("Cu"), "Cu"], ConfigError, r"structures\[1\] is of type str: expected ase.Atoms"),
        ("nowhere.extxyz", DataError, "nowhere.extxyz: no such file"),
        (3, ConfigError, "structures is of type int"),
    ],
)
def test_a_structure_that_cannot_be_predicted_is_named(
    make_run: Callable[..., Run], structures: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        matscale.predict(make_run("schnet", hidden=8), structures)


def test_predictions_that_are_not_finite_are_an_error(make_run: Callable[..., Run]) -> None:
    potential = matscale.load(make_run("schnet", hidden=8))
    potential.scales[0] = torch.inf
    with pytest.raises(NonFinitePrediction, match=r"for 2 of 2 structures are not finite: structures 0, 1"):
        matscale.predict(potential, [bulk("Cu"), bulk("Al")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": 3}, "model is of type int"),
        ({"device": "cuda"}, "loaded already"),
        ({"split": "train"}, "only a run defines parts"),
        ({"data": None}, "no dataset of its own"),
        ({"data": []}, "no structure with a label"),
        ({"data": [bulk("Cu")]}, "no structure with a label"),
    ],
)
def test_evaluate_refuses_what_a_loaded_model_cannot_know(
    make_run: Callable[..., Run], alloys: PackedDataset, arguments: dict[str, Any], message: str
) -> None:
    potential = matscale.load(make_run("schnet", hidden=8))
    with pytest.raises(MatscaleError, match=message):
        matscale.evaluate(**{"model": potential, "data": alloys, **arguments})


def test_a_batch_has_the_labels_of_its_structures_and_the_edges_that_are_asked_for(alloys: PackedDataset) -> None:
    structure = alloys.structure(0)
    batch = matscale.batch([structure, structure.to_ase(), bulk("Cu")], Graph.radius(4.0), dtype="float64")
    assert batch.energy[:2].tolist() == [structure.energy] * 2
    assert batch.energy[2].isnan()
    np.testing.assert_array_equal(batch.forces[2:4].numpy(), structure.forces)
    assert batch.n_edges == matscale.batch([structure, structure, bulk("Cu")], 4.0).n_edges > 0
    assert matscale.batch(structure).edge_index is None
    with pytest.raises(ConfigError, match="graph is of type str"):
        matscale.batch(structure, "radius")


# Laws ----------------------------------------------------------------------------------------------------------------


def test_compare_and_plan_say_what_the_commands_say(tmp_path: Path) -> None:
    rows = [
        {"arch": a, "n": n, "d": d, "c": 6 * n * d, "loss": k + 40 * n**-0.4 + 90 * d**-0.5}
        for a, k in (("one", 1.0), ("two", 1.5))
        for n in (1e3, 4e3, 16e3, 64e3)
        for d in (1e3, 4e3, 16e3, 64e3)
    ]
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))

    def said(*arguments: str) -> Any:
        result = CliRunner().invoke(main, [*arguments, str(table), "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    assert (
        matscale.compare(rows, ["one", "two"], axis="n").plain()["ranking"] == said("compare", "--axis", "n")["ranking"]
    )
    planned = said("plan", "--arch", "one", "--flops", "1e11", "--samples", "100")
    fitted = matscale.fit(rows, "nd", architecture="one", samples=100)
    for plan in (
        matscale.plan(rows, flops="1e11", architecture="one", samples=100),
        matscale.plan(str(table), flops=1e11, architecture="one", samples=100),
        matscale.plan(fitted, flops="0.1T"),
    ):
        assert plan.plain()["n"] == pytest.approx(planned["n"])
    with pytest.raises(ConfigError, match="flops = 'much'"):
        matscale.plan(fitted, flops="much")
    with pytest.raises(ConfigError, match="name it with device="):
        matscale.plan(fitted, flops=1e11, mfu=0.1)
