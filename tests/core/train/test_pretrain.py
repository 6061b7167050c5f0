"""Pre-training: what it learns, that it is resumed bit for bit, what a fine-tuned run takes of it, who refuses it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from test_distributed import codes, launch
from test_resume import assert_same

import matscale
import tiny
from matscale.cli import main
from matscale.core.data.store.packed import PackedDataset, ShardWriter
from matscale.core.errors import ConfigError, DataError, StoppedEarly
from matscale.core.flops.count import run_counted
from matscale.core.hosting.host import get
from matscale.core.runs import checkpoint
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import Run
from matscale.core.scaling.tables.from_runs import read_runs
from matscale.core.train.session import train
from matscale.core.train.setup import prepare, resolved

SMALL: dict[str, dict[str, Any]] = {
    "schnet": {"hidden": 16, "filters": 16, "n_radial": 12, "n_layers": 2, "cutoff": 4.0},
    "transformer-periodic": {"width": 16, "n_layers": 2, "feedforward": 32, "cutoff": 4.0, "dropout": 0.0},
    "fcn": {"hidden": 16, "depth": 2},
}


def configured(data: Path, name: str, task: str, *assignments: str) -> TrainConfig:
    config = tiny.configured(data, f"pretrain.task={task}", *assignments, name=name)
    choice = config.architecture.model_copy(update={"config": SMALL.get(name, config.architecture.config)})
    return config.model_copy(update={"architecture": choice})


def trained(config: TrainConfig, path: Path, **options: Any) -> Run:
    name = config.architecture.name
    return train(config, path, architecture=get(name) if name in SMALL else tiny.architecture(name), **options)


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def weights(run: Run) -> dict[str, torch.Tensor]:
    """Those that `--from` begins with."""
    return checkpoint.load_weights(checkpoint.folder_of(run.checkpoint_folder, run.best))


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough of the tiny structures to learn what holds for others."""
    return tiny.make_dataset(tmp_path_factory.mktemp("more") / "data", 240).path


CASES = [("springs", "denoise"), ("columns", "denoise"), ("transformer-periodic", "distances")]


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_stopped_pre_training_resumes_bit_for_bit(data: Path, tmp_path: Path, name: str, task: str) -> None:
    config = configured(data, name, task, "batch.accumulate=2")
    unbroken = trained(config, tmp_path / "unbroken")
    with pytest.raises(StoppedEarly):
        trained(config, tmp_path / "run", progress=tiny.StopAt(7, signal.SIGTERM))
    resumed = trained(config, tmp_path / "run", resume=True)
    assert_same(Run.open(resumed.path), unbroken)
    has_head = any(key.startswith("pretext.") for key in weights(unbroken))
    assert has_head is (task == "distances")
    assert unbroken.info["pretrain"] == task
    assert all("loss" not in row for row in unbroken.metrics())


@pytest.mark.parametrize(
    ("name", "task", "term", "guess", "limit"),
    [
        ("schnet", "denoise", "noise", "zero", 0.8),
        pytest.param("transformer-periodic", "denoise", "noise", "zero", 0.7, marks=pytest.mark.long),
        pytest.param("schnet", "distances", "distance", "mean", 0.4, marks=pytest.mark.long),
        ("fcn", "distances", "distance", "mean", 0.2),
    ],
)
def test_it_learns_more_than_the_trivial_guess_knows(
    more: Path, tmp_path: Path, name: str, task: str, term: str, guess: str, limit: float
) -> None:
    changes = ["optimizer.lr=1e-2", "budget.steps=150", "evaluation.every=150", "batch.structures=16"]
    changes += ["augmentation.rotate=false", "compute.precision=fp32"]
    changes += ["pretrain.sigma=0.3"] if task == "denoise" else []
    last = trained(configured(more, name, task, *changes), tmp_path / "run").info["last"]
    assert 0 < last["objective"] < limit
    assert last[f"{term}_rmse"] < 0.9 * last[f"{term}_rmse_of_{guess}"]


def test_the_noise_is_there_and_of_the_size_that_was_asked_for(data: Path, tmp_path: Path) -> None:
    changes = ("pretrain.sigma=0.05", "optimizer.lr=1e-12", "budget.steps=1")
    last = trained(configured(data, "fcn", "denoise", *changes), tmp_path / "run").info["last"]
    assert last["noise_rmse_of_zero"] == pytest.approx(0.05, rel=0.25)
    assert last["objective"] == pytest.approx((last["noise_rmse"] / 0.05) ** 2)


def test_flops_are_counted_with_the_head_and_without_what_is_not_run(data: Path) -> None:
    config = resolved(configured(data, "fcn", "distances"), get("fcn"))
    setup = prepare(config, get("fcn"))
    batch = setup.training_loader().batch(0, 0)
    count = run_counted(setup.potential(), batch, training=True).contractions
    hidden, depth, embedding, partners = 16, 2, get("fcn").config().embedding, 8
    body = (embedding + 3) * hidden + depth * hidden**2
    head = hidden * 64 + partners * (128 * 64 + 64)
    assert count == 6 * batch.n_atoms * (body + head)


def test_a_fine_tuned_run_takes_the_model_and_neither_head_nor_scales(data: Path, tmp_path: Path) -> None:
    first = trained(configured(data, "schnet", "distances"), tmp_path / "first")
    quick = ("--data", data, "--steps", 1, "--device", "cpu", "--no-baselines", "-q")
    result = cli("train", "--from", first.path, *quick, "--lr", 1e-12, "--precision", "fp64", "-o", tmp_path / "b")
    assert result.exit_code == 0, result.output
    second = Run.open(tmp_path / "b")
    old, new = weights(first), weights(second)
    assert set(old) - set(new) == {key for key in old if key.startswith("pretext.")} != set()
    for key in new:
        if key.startswith("model."):
            torch.testing.assert_close(new[key], old[key], rtol=1e-6, atol=1e-9)
    assert old["scales"].tolist() == [1, 1, 1]
    assert new["scales"][1] not in (0, 1)
    assert new["references"].abs().sum() > 0
    start = second.info["start"]
    assert start["run"] == str(first.path)
    assert (start["pretrain"], start["not_taken"], start["flops"]) == ("distances", {}, first.info["flops"])
    assert "pretrain" not in second.info
    assert "loss" in second.info["last"]
    third = cli("train", "--from", second.path, *quick, "-o", tmp_path / "c")
    assert third.exit_code == 0, third.output
    both = first.info["flops"] + second.info["flops"]
    assert Run.open(tmp_path / "c").info["start"]["flops"] == both


def test_a_model_of_another_shape_is_refused(data: Path, tmp_path: Path) -> None:
    first = trained(configured(data, "schnet", "denoise", "budget.steps=1"), tmp_path / "first")
    result = cli("train", "--from", first.path, "--data", data, "--set", "architecture.config.hidden=8", "--arch",
                 "schnet", "-o", tmp_path / "b", "--steps", 1, "-q")  # fmt: skip
    assert result.exit_code == 2
    assert "its model differs" in result.stderr


def test_structures_without_labels_can_be_learned_from(data: Path, tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "bare")
    for s in PackedDataset.open(data):
        s.energy = s.forces = s.stress = None
        writer.append(s)
    writer.finish()
    for task in ("denoise", "distances"):
        run = trained(configured(tmp_path / "bare", "schnet", task), tmp_path / task)
        assert run.info["last"]["objective"] > 0
    with pytest.raises(DataError, match="has the label"):
        trained(tiny.configured(tmp_path / "bare"), tmp_path / "labels")


def test_who_needs_energies_refuses_it(data: Path, tmp_path: Path) -> None:
    run = trained(configured(data, "schnet", "denoise", "budget.steps=1"), tmp_path / "run")
    for use in (matscale.load, matscale.calculator):
        with pytest.raises(ConfigError, match=r"was pre-trained \(denoise\).*matscale train --from"):
            use(run.path)
    for command in (["evaluate", run.path], ["predict", run.path, data, "-o", tmp_path / "x.extxyz"]):
        result = cli(*command)
        assert result.exit_code == 2, result.output
        assert "Fine-tune it first" in result.stderr
    with pytest.raises(DataError, match=r"is pre-training \(denoise\): its loss is another quantity"):
        read_runs([run.path], {})
    (tmp_path / "ledger.csv").write_text(cli("runs", "list", run.path, "--csv").stdout)
    result = cli("fit", tmp_path / "ledger.csv")
    assert result.exit_code == 3
    assert "is pre-training" in result.stderr


def test_an_architecture_without_embeddings_is_refused_distances(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"springs: has no embeddings.*fcn.*schnet.*--pretrain denoise"):
        trained(configured(data, "springs", "distances"), tmp_path / "run")


@pytest.mark.parametrize("task", ["denoise", "distances"])
def test_single_atoms_teach_nothing(data: Path, tmp_path: Path, task: str) -> None:
    writer = ShardWriter(tmp_path / "atoms")
    for s in PackedDataset.open(data):
        if len(s) == 1:
            writer.append(s)
    writer.finish()
    with pytest.raises(ConfigError, match="a single atom"):
        trained(configured(tmp_path / "atoms", "schnet", task), tmp_path / "run")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"pretrain": {"task": "denoise", "partners": 3}}, "partners is an option of distances"),
        ({"pretrain": {"task": "distances", "sigma": 0.1}}, "sigma is an option of denoise"),
        ({"pretrain": {"task": "denose"}}, "pretrain.task = 'denose'"),
        ({"pretrain": "denoise", "start": {"run": "runs/x"}}, "starts from new weights"),
        ({"pretrain": "denoise", "loss": {"energy": {"weight": 0}}}, "has its own loss"),
        ({"pretrain": "distances", "compute": {"compile": True}}, "uses embeddings"),
    ],
)
def test_what_does_not_go_together_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig.parse({"architecture": {"name": "schnet"}, **keys})


def test_the_name_alone_is_enough_and_the_defaults_are_written_out() -> None:
    config = TrainConfig.parse({"architecture": {"name": "schnet"}, "pretrain": "denoise"})
    assert config.plain()["pretrain"] == {"task": "denoise", "sigma": 0.1}
    assert "pretrain" not in TrainConfig.parse({"architecture": {"name": "schnet"}}).plain()


def test_the_command_ends_with_the_error_beside_that_of_the_guess(data: Path, tmp_path: Path) -> None:
    options: Sequence[object] = ("--steps", 2, "--device", "cpu", "-o", tmp_path / "run", "-q")
    result = cli("train", "--arch", "fcn", "--params", "3k", "--data", data, "--pretrain", "distances", *options)
    assert result.exit_code == 0, result.output
    assert "Pre-training (distances): distance " in result.stdout
    assert "Å (mean: " in result.stdout
    assert "best: distance " in cli("runs", "show", tmp_path / "run").stdout
    row = json.loads(cli("runs", "list", tmp_path, "--json").stdout)[0]
    assert (row["role"], row["loss"]) == ("pretrain", None)  # its objective is no loss beside those of others


@pytest.mark.slow
def test_two_processes_equal_one(data: Path, tmp_path: Path) -> None:
    changes = [
        "architecture.config.dropout=0",
        "budget.steps=6",
        "evaluation.every=4",
        "pretrain.task=denoise",
        "batch.accumulate=2",
    ]
    name = "columns"
    config = tiny.configured(data, *changes, name=name)
    one = train(config, tmp_path / "one", architecture=tiny.architecture(name))
    processes = launch(2, tmp_path / "two", data, *changes, f"architecture.name={name}")
    assert codes(processes) == [0, 0]
    mine, yours = (checkpoint.load_weights(checkpoint.folder_of(r.checkpoint_folder, r.last), averaged=False)
                   for r in (one, Run.open(tmp_path / "two")))  # fmt: skip
    for key in mine:
        torch.testing.assert_close(yours[key], mine[key], rtol=1e-7, atol=1e-10)
    assert os.path.exists(tmp_path / "two" / "metrics.jsonl")
