"""A run's files belong together: what was edited or damaged is named, and rebuilt from the checkpoints if possible."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from ase.build import bulk
from ase.io import write
from click.testing import CliRunner, Result

import matscale
from matscale.cli import main
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError, MatscaleError, NonFinitePrediction, StoppedEarly
from matscale.core.files import sha256_of
from matscale.core.hosting.host import get
from matscale.core.progress import Reporter, StepStatus
from matscale.core.runs import checkpoint
from matscale.core.runs.config import TrainConfig, merged
from matscale.core.runs.record import TIMINGS, Run
from matscale.core.scaling.tables.from_runs import read_runs
from matscale.core.train.session import train

SMALL = {"hidden": 4, "filters": 4, "n_radial": 4, "n_layers": 1, "cutoff": 4.0}


def config(data: PackedDataset, **values: object) -> TrainConfig:
    base = {
        "architecture": {"name": "schnet", "config": SMALL},
        "data": {"path": str(data.path), "validation": 0.25, "cache_graphs": False},
        "batch": {"structures": 6},
        "budget": {"steps": 6},
        "evaluation": {"every": 2},
        "checkpoint": {"every": 2, "keep": 3},
        "compute": {"device": "cpu", "threads": 1},
    }
    return TrainConfig.parse(merged(base, values))


def trained(folder: Path, given: TrainConfig, resume: bool = False, progress: Reporter | None = None) -> Run:
    return train(given, folder, resume=resume, architecture=get("schnet"), progress=progress)


def matscale_(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def weights(run: Run, step: int) -> dict[str, torch.Tensor]:
    return checkpoint.load_weights(checkpoint.folder_of(run.checkpoint_folder, step))


@pytest.fixture(scope="module")
def original(alloys: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("original") / "run", config(alloys))


@pytest.fixture
def run(original: Run, tmp_path: Path) -> Run:
    shutil.copytree(original.path, tmp_path / "run")
    return Run.open(tmp_path / "run")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("cutoff = 4.0", "cutoff = 3.5", r"architecture\.config\.cutoff was 4\.0, is 3\.5"),
        ("validation = 0.25", "validation = 0.5", r"data\.validation"),
        ("lr = 0.001", "lr = 0.01", r"optimizer\.lr"),
        ("seed = 0", "seed = 1", "seed was 0, is 1"),
    ],
)
def test_an_edited_configuration_is_refused_by_name(run: Run, old: str, new: str, key: str) -> None:
    edit(run.path / "config.toml", old, new)
    with pytest.raises(ConfigError, match=key):
        matscale.load(run.path)
    with pytest.raises(ConfigError, match=key.split(" ")[0]):
        trained(run.path, Run.open(run.path).config, resume=True)
    assert matscale_("evaluate", run.path).exit_code == 2
    assert "config.toml has been changed" in read_one(run, run).excluded[0].reason


def read_one(run: Run, changed: Run):
    """A table of the run and a sound one of another seed."""
    other = run.path.parent / "other"
    shutil.copytree(changed.path, other)
    shutil.rmtree(other / "checkpoints")
    sound = json.loads((other / "run.json").read_text())
    del sound["digest"], sound["config_sha256"]
    (other / "run.json").write_text(json.dumps({**sound, "last": {**sound["last"], "loss": 9.0}}))
    return read_runs([run.path, other], {})


def test_what_may_change_may_be_edited(run: Run) -> None:
    edit(run.path / "config.toml", "threads = 1", "threads = 2")
    edit(run.path / "config.toml", "keep = 3", "keep = 5")
    assert torch.equal(matscale.load(run.path).references, matscale.load(run).references)


@pytest.mark.parametrize("harm", ["{", "[1]", '{"status": 3}', None])
def test_a_damaged_run_json_is_taken_from_the_newest_checkpoint(run: Run, harm: str | None) -> None:
    before = run.info
    if harm is None:
        (run.path / "run.json").unlink()
    else:
        (run.path / "run.json").write_text(harm)
    with pytest.warns(UserWarning, match=r"run\.json: is damaged.*checkpoint of step 6"):
        potential = matscale.load(run.path)
    assert potential.elements == tuple(before["dataset_info"]["elements"])
    listed = json.loads(matscale_("runs", "list", run.path.parent, "--json").stdout)[0]
    assert listed["status"] == "crashed"
    assert "matscale train --resume" in listed["reason"]
    with pytest.warns(UserWarning, match="is damaged"):
        again = trained(run.path, run.config, resume=True)
    for key in ("status", "steps", "flops", "structures", "parameters", "best", "last", "rows"):
        assert again.info[key] == before[key], key


def test_an_edited_run_json_is_found_by_its_digest(run: Run) -> None:
    info = json.loads((run.path / "run.json").read_text())
    info["parameters"]["non_embedding"] += 1
    (run.path / "run.json").write_text(json.dumps(info))
    table = read_one(run, run)
    assert "its digest differs" in table.excluded[0].reason
    assert len(table) >= 1


def test_a_missing_configuration_is_taken_from_the_newest_checkpoint(run: Run) -> None:
    (run.path / "config.toml").unlink()
    with pytest.warns(UserWarning, match=r"config\.toml: is missing.*step 6"):
        assert Run.open(run.path).config == run.config


@pytest.mark.parametrize("harm", ["4\n", "x", "999\n", None])
@pytest.mark.parametrize("name", ["best", "last"])
def test_a_damaged_pointer_is_said_and_the_right_checkpoint_is_taken(run: Run, name: str, harm: str | None) -> None:
    right = {"best": run.best, "last": run.last}[name]
    assert right not in (4, None)
    pointer = run.checkpoint_folder / name
    pointer.unlink() if harm is None else pointer.write_text(harm)
    with pytest.warns(UserWarning, match=rf"{name}: .*step {right}, which is used here"):
        assert {"best": lambda: run.best, "last": lambda: run.last}[name]() == right


def test_altered_rows_are_found_and_no_law_of_curves_uses_them(run: Run, alloys: PackedDataset) -> None:
    rows = list(run.metrics())
    rows[1]["loss"] = 1e-3
    run.rows.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = trained(run.path.parent / "other", config(alloys, seed=0, optimizer={"lr": 0.002}))
    table = read_runs([run.path, other.path], {}, curves=True)
    assert set(table.words["run"]) == {str(other.path)}
    assert "are not those that were written" in table.excluded[0].reason


class Stop(Reporter):
    def stepped(self, status: StepStatus) -> None:
        if status.step == 4:
            os.kill(os.getpid(), 15)


def test_rows_that_were_altered_are_said_at_resume_and_stay_marked(alloys: PackedDataset, tmp_path: Path) -> None:
    with pytest.raises(StoppedEarly):
        trained(tmp_path / "run", config(alloys), progress=Stop())
    path = tmp_path / "run" / "metrics.jsonl"
    edit(path, '"step": 2', '"step": 3')
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: its first 2 rows are not those"):
        run = trained(tmp_path / "run", config(alloys), resume=True)
    assert run.info["altered"] == ["metrics.jsonl"]


def rewrite(folder: Path, name: str, change) -> None:
    """Other tensors, with a manifest that is right for them."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"size": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


WEIGHT = "model.embedding.weight"
HARMS = {
    "shape": lambda t: t.update({WEIGHT: t[WEIGHT][:, :2].clone()}),
    "type": lambda t: t.update({WEIGHT: t[WEIGHT].half()}),
    "name": lambda t: t.update({WEIGHT + "x": t.pop(WEIGHT)}),
    "NaN": lambda t: t[WEIGHT].fill_(math.nan),
}


@pytest.mark.parametrize("harm", HARMS)
def test_other_tensors_under_a_right_digest_count_as_damage(alloys: PackedDataset, tmp_path: Path, harm: str) -> None:
    with pytest.raises(StoppedEarly):
        trained(tmp_path / "run", config(alloys), progress=Stop())
    folder = tmp_path / "run" / "checkpoints" / "step_4"
    for name in ("model.safetensors", "ema.safetensors"):
        rewrite(folder, name, HARMS[harm])
    with pytest.raises(MatscaleError, match=r"step_4.*another checkpoint: 2") as refused:
        matscale.load(tmp_path / "run", 4)
    assert refused.value.exit_code == (4 if harm == "NaN" else 1)
    with pytest.warns(UserWarning, match=r"step_4.*The checkpoint before it is used"):
        resumed = trained(tmp_path / "run", config(alloys), resume=True)
    unbroken = trained(tmp_path / "unbroken", config(alloys))
    assert all(torch.equal(weights(resumed, 6)[k], v) for k, v in weights(unbroken, 6).items())


def test_predictions_that_are_not_finite_end_with_code_4_and_name_the_structures(
    run: Run, alloys: PackedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matscale.core.model.potential import Potential

    forward = Potential.forward

    def poisoned(self, batch):
        outputs = forward(self, batch)
        outputs.energy[batch.atoms_per_structure == 4] = math.nan
        return outputs

    write(tmp_path / "in.extxyz", [bulk("Cu"), bulk("Ni", cubic=True), bulk("Al")])
    out = tmp_path / "out.extxyz"
    line = ("predict", run.path, tmp_path / "in.extxyz", "-o", out, "--device", "cpu")
    monkeypatch.setattr(Potential, "forward", poisoned)
    result = matscale_(*line)
    assert result.exit_code == 4
    assert "1 of 3 structures are not finite: structure 1 (counted" in result.stderr
    assert not out.exists()
    assert [p.name for p in tmp_path.iterdir() if "out" in p.name] == []
    left_out = matscale_(*line, "--skip-invalid")
    assert left_out.exit_code == 0
    assert "Left out structure 1" in left_out.stderr
    atoms = bulk("Ni", cubic=True)
    atoms.calc = matscale.calculator(run)
    with pytest.raises(NonFinitePrediction, match="Ni"):
        atoms.get_potential_energy()
    monkeypatch.setattr(
        Potential, "forward", lambda self, batch: (o := forward(self, batch), o.forces.fill_(math.inf))[0]
    )
    measured = matscale_("evaluate", run.path, "--data", alloys.path, "--device", "cpu", "--no-baselines")
    assert measured.exit_code == 4
    assert "are not finite: structure" in measured.stderr


def numbers(run: Run) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in run.metrics()]


@pytest.mark.parametrize(
    "schedule", [{"kind": "constant", "warmup": 0.0}, {"kind": "wsd", "warmup": 0.0, "decay": 0.5}]
)
def test_a_finished_run_is_extended_as_if_it_had_been_longer_from_the_start(
    alloys: PackedDataset, tmp_path: Path, schedule: dict[str, object]
) -> None:
    short, long = (config(alloys, schedule=schedule, budget={"steps": n}) for n in (6, 12))
    assert trained(tmp_path / "run", short).info["status"] == "completed"
    extended = trained(tmp_path / "run", long, resume=True)
    unbroken = trained(tmp_path / "unbroken", long)
    assert extended.info["steps"] == 12
    assert all(torch.equal(weights(extended, 12)[k], v) for k, v in weights(unbroken, 12).items())
    assert [row for row in numbers(extended) if row["split"] == "validation"] == [
        row for row in numbers(unbroken) if row["split"] == "validation"
    ]
    assert Run.open(tmp_path / "run").config.budget.steps == 12
    matscale.load(tmp_path / "run")


def test_a_finished_run_under_a_cosine_says_how_to_go_on(run: Run, alloys: PackedDataset) -> None:
    result = matscale_("train", "--resume", "-o", run.path, "--steps", "12", "--quiet")
    assert result.exit_code == 2
    assert "cosine" in result.stderr
    assert f"matscale train --from {run.path}" in result.stderr
    assert Run.open(run.path).info["status"] == "completed"
    assert Run.open(run.path).config.budget.steps == 6
