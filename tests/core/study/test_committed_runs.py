"""Studies that are kept in a repository: run folders name no folder of the machine, and are done without weights."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import tiny
from matscale.cli import main
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import DataError, StoppedEarly
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import Run
from matscale.core.scaling.tables.from_runs import find_runs, read_runs
from matscale.core.study.config import Study
from matscale.core.study.plan import StudyPlan, plan
from matscale.core.study.sweep import Sweep, lay_out
from matscale.core.train.session import train
from studies import FakePool, rows, study_file

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A project with a dataset and a study of two finished runs in it, planned and trained by relative paths."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(data, project / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        for job in planned().runs:
            lay_out(job)
            train(job.config, job.path)
        Sweep(planned(), FakePool()).run()
    return project


def planned() -> StudyPlan:
    """The study of the working directory."""
    values = {"params": ["2k"], "output": "studies/small"}
    return plan(Study.read(study_file(Path(), Path("data"), **values)))


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the project, in which the test works."""
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def test_no_file_of_a_finished_study_names_a_folder_of_the_machine(finished: Path) -> None:
    files = [path for path in (finished / "studies").rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert {"run.json", "config.toml", "planned.toml", "runs.jsonl", "runs.csv", "state.json"} <= {
        p.name for p in files
    }
    assert [path for path in files if str(finished) in path.read_text()] == []
    info = Run.open(finished / rows(finished / "studies" / "small")[0]["path"]).info
    assert info["dataset"]["path"] == "data"


def test_runs_without_weights_are_done_for_the_same_sweep_and_give_the_same_numbers(project: Path) -> None:
    folders = find_runs(Path("studies/small"))
    before = str(read_runs(folders, {}, curves=True))
    for name in ("checkpoints", "references.json", "samples.json", "samples.jsonl", "planned.toml", ".lock"):
        for folder in folders:
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    pool = FakePool()
    sweep = Sweep(planned(), pool)
    sweep.run()
    assert (pool.started, sweep.counts()) == ([], {"completed": 2})
    assert str(read_runs(folders, {}, curves=True)) == before


def test_a_repository_takes_of_a_study_only_what_fits_need(project: Path) -> None:
    shutil.copy(ROOT / ".gitignore", project)
    (folder,) = {path.parent for path in project.glob("studies/small/runs/*seed0*/run.json")}
    (folder / "baseline_errors.json").touch()
    (project / "studies" / "rule.toml").touch()

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=project, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    git("add", "studies")
    taken = {Path(line) for line in git("ls-files").splitlines()}
    assert {path.name for path in taken if folder.name in path.parts} == {
        "config.toml",
        "run.json",
        "metrics.jsonl",
        "baseline_errors.json",
    }
    assert {path.as_posix() for path in taken if len(path.parts) < 4} == {
        "studies/small/runs.jsonl",
        "studies/rule.toml",
    }


def test_a_run_is_used_from_another_directory_by_naming_its_data(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = find_runs(Path("studies/small"))[0]
    here = run("evaluate", folder, "--json")
    assert here.exit_code == 0, here.output
    monkeypatch.chdir(tmp_path)
    away = run("evaluate", "project" / folder, "--json")
    assert away.exit_code == 3
    assert f"There is no dataset 'data': neither a folder in {tmp_path} nor a known name" in away.stderr
    assert "Go to the directory in which the run was trained, or name the dataset: --data" in away.stderr
    named = run("evaluate", "project" / folder, "--data", "project/data", "--json", "--no-baselines")
    assert named.exit_code == 0, named.output
    assert named.stdout.strip()[:-1].strip() in here.stdout


def test_another_dataset_of_the_same_name_is_not_taken_for_that_of_the_run(
    project: Path, alloys: PackedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = find_runs(Path("studies/small"))[0]
    (tmp_path / "data").symlink_to(alloys.path)
    monkeypatch.chdir(tmp_path)
    result = run("evaluate", "project" / folder)
    assert result.exit_code == 3
    assert "data: is not the dataset that project/studies/small" in result.stderr


def test_a_run_goes_on_from_another_directory_with_its_data_and_no_other(
    project: Path, alloys: PackedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_data(path: object) -> TrainConfig:
        return config.model_copy(update={"data": config.data.model_copy(update={"path": str(path)})})

    config, whole = planned().runs[0].config, Run.open(planned().runs[0].path)
    with pytest.raises(StoppedEarly):
        train(config, "cut", progress=tiny.StopAt(3))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="neither a folder in"):
        train(config, "project/cut", resume=True)
    with pytest.raises(DataError, match="has changed since"):
        train(with_data(alloys.path), "project/cut", resume=True)
    resumed = train(with_data("project/data"), "project/cut", resume=True)
    assert resumed.info["last"]["loss"] == whole.info["last"]["loss"]


def test_a_run_that_knows_its_data_by_an_absolute_path_goes_on(project: Path) -> None:
    config = planned().runs[0].config
    older = config.model_copy(update={"data": config.data.model_copy(update={"path": str(project / "data")})})
    with pytest.raises(StoppedEarly):
        train(older, "cut", progress=tiny.StopAt(3))
    assert train(config, "cut", resume=True).info["status"] == "completed"
