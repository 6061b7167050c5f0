"""`matscale train` from the command line: precedence, exit codes, what it prints and what it leaves."""

from __future__ import annotations

import json
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from matscale.cli import main
from matscale.cli.progress.pace import Pace
from matscale.cli.progress.reporter import Lines, reporter
from matscale.core.data.split import split
from matscale.core.data.store.packed import PackedDataset, ShardWriter
from matscale.core.data.structure import Structure
from matscale.core.progress import Reporter, StepStatus
from matscale.core.runs.config import TERMS
from matscale.core.runs.record import Run

FEW = ["--arch", "fcn", "--params", "2000", "--device", "cpu", "--set", "compute.threads=1", "--steps", "6"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def dry(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--dry-run")
    assert result.exit_code == 0, result.output
    return tomllib.loads(result.stdout)


def test_a_run_ends_with_the_table_against_the_baselines_and_its_path(alloys: PackedDataset, tmp_path: Path) -> None:
    result = run(*FEW, "--data", alloys.path, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[-6:-1]] == ["fcn", "zero", "mean", "composition", "nearest"]
    assert lines[-1] == f"Run: {tmp_path / 'run'}"
    for told in ("parameters", "On cpu (1 threads)", "energy  on", "validation loss"):
        assert told in result.stderr
    assert Run.open(tmp_path / "run").info["status"] == "completed"


def test_elements_of_the_validation_part_alone_are_named_and_the_table_includes_them(
    alloys: PackedDataset, tmp_path: Path
) -> None:
    """A small training part misses elements: the run used to end with an error in place of its table."""
    result = run(*FEW, "--data", alloys.path, "-o", tmp_path / "run", "--set", "data.count=1")
    assert result.exit_code == 0, result.output
    assert "have elements that are not in the training part: " in result.stderr
    assert "The model cannot know these elements" in result.stderr
    assert "fcn" in result.stdout
    again = CliRunner().invoke(main, ["evaluate", str(tmp_path / "run"), "--data", str(alloys.path)])
    assert again.exit_code == 0, again.output


def test_references_that_compositions_do_not_determine_are_reported(alloys: PackedDataset, tmp_path: Path) -> None:
    # One training structure: rank 1, also where it has two elements.
    some = next(k for k in range(9) if len(alloys.elements(split(alloys, 0.1, k).take(count=1))) == 2)
    options = ["--set", "data.count=1", "--seed", some, "-o", tmp_path / "run"]
    result = run(*FEW, "--data", alloys.path, *options)
    assert result.exit_code == 0, result.output
    assert "Element references: rank 1 of 2 elements" in result.stderr


def test_quiet_says_nothing_but_the_result(alloys: PackedDataset, tmp_path: Path) -> None:
    result = run(*FEW, "--data", alloys.path, "-o", tmp_path / "run", "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert "Run:" in result.stdout


def test_a_run_folder_is_not_overwritten_and_a_complete_run_resumes_to_itself(
    alloys: PackedDataset, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    assert run(*FEW, "--data", alloys.path, "-o", path, "-q").exit_code == 0
    before = (path / "metrics.jsonl").read_bytes()
    again = run(*FEW, "--data", alloys.path, "-o", path, "-q")
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    resumed = run("--resume", "-o", path, "-q")
    assert resumed.exit_code == 0, resumed.output
    assert (path / "metrics.jsonl").read_bytes() == before


def test_the_config_of_a_run_repeats_it(alloys: PackedDataset, tmp_path: Path) -> None:
    assert run(*FEW, "--data", alloys.path, "-o", tmp_path / "a", "-q").exit_code == 0
    assert run("--config", tmp_path / "a" / "config.toml", "-o", tmp_path / "b", "-q").exit_code == 0
    a, b = ([row["objective"] for row in Run.open(tmp_path / name).metrics()] for name in "ab")
    assert a == b
    assert (tmp_path / "a" / "config.toml").read_text() == (tmp_path / "b" / "config.toml").read_text()


def test_set_goes_before_options_before_the_file_before_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('seed = 5\nlog_every = 7\n[architecture]\nname = "fcn"\n[optimizer]\nlr = 0.1\nclip = 3.0\n')
    config = dry("--config", file, "--lr", "0.2", "--seed", "6", "--set", "optimizer.lr=0.3")
    assert (config["optimizer"]["lr"], config["seed"], config["log_every"]) == (0.3, 6, 7)
    assert config["optimizer"]["clip"] == 3.0
    assert config["optimizer"]["ema"] == 0.999
    assert config["architecture"]["config"]["hidden"] > 0  # written out in full


def test_epochs_and_steps_replace_each_other(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[architecture]\nname = "fcn"\n[budget]\nepochs = 3\nmax_time = 60\n')
    assert dry("--config", file, "--steps", "9")["budget"] == {"steps": 9, "max_time": 60.0}
    assert dry("--config", file)["budget"] == {"epochs": 3, "max_time": 60.0}
    assert dry("--arch", "fcn")["budget"] == {"epochs": 10}
    assert dry("--arch", "fcn", "--max-time", "30m", "--max-flops", "1e15")["budget"] == {
        "max_time": 1800.0,
        "max_flops": 1e15,
    }


def test_another_pretext_forgets_the_options_of_the_files(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('architecture.name = "transformer"\npretrain = {task = "denoise", sigma = 0.3}\n')
    assert dry("--config", file, "--pretrain", "denoise")["pretrain"] == {"task": "denoise", "sigma": 0.3}
    assert dry("--config", file, "--pretrain", "distances")["pretrain"] == {"task": "distances", "partners": 8}


def test_a_size_given_with_another_run_is_one_of_its_architecture(alloys: PackedDataset, tmp_path: Path) -> None:
    first = tmp_path / "first"
    assert run("--arch", "fcn", "--params", "3k", "--data", alloys.path, "--steps", 1, "-o", first).exit_code == 0
    result = run("--from", first, "--params", "30k", "--data", alloys.path, "--steps", 1, "-o", tmp_path / "second")
    assert result.exit_code == 2
    assert "its model differs" in result.stderr
    assert "--partial" in result.stderr


def test_another_architecture_forgets_the_files_keys(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[architecture]\nname = "fcn"\n[architecture.config]\nhidden = 7\n')
    assert dry("--config", file)["architecture"]["config"]["hidden"] == 7
    assert dry("--config", file, "--arch", "schnet")["architecture"]["config"]["cutoff"] == 6.0


def test_a_published_size_is_taken_by_name() -> None:
    config = dry("--arch", "schnet", "--size", "ladder-02")
    assert config["architecture"]["config"]["hidden"] == 128


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--arch schnet"),
        (["--arch", "schnett"], "Did you mean 'schnet'"),
        (["--arch", "schnet", "--size", "ladder-2"], "Did you mean 'ladder-02'"),
        (["--arch", "schnet", "--size", "ladder-02", "--params", "1M"], "give one of them"),
        (["--arch", "fcn", "--set", "optimiser.lr=1"], "'optimizer'"),
        (["--arch", "fcn", "--set", "architecture.config.hiden=1"], "'hidden'"),
        (["--arch", "fcn", "--max-time", "soon"], "30m"),
        (["--resume", "--arch", "fcn"], "-o FOLDER"),
        (["--arch", "fcn", "--set", "optimizer.betas=[0.9, 1.0]"], "less than 1"),
        (["--arch", "fcn", *(f"--set=loss.{term}.weight=0" for term in TERMS)], "nothing would be learned"),
    ],
)
def test_mistakes_are_answered_with_exit_2_and_what_to_do(arguments: list[str], told: str) -> None:
    result = run(*arguments, "--dry-run")
    assert result.exit_code == 2
    assert told in result.stderr


def test_bad_data_ends_with_exit_3(tmp_path: Path) -> None:
    result = run(*FEW, "--data", tmp_path / "nothing", "-o", tmp_path / "run")
    assert result.exit_code == 3
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


def test_elements_of_the_validation_part_alone_are_said_and_do_not_end_a_run(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "data")
    for k, z in enumerate([29] * 12 + [79] * 12):
        structure = Structure(np.array([z]), np.zeros((1, 3)), 3.0 * np.eye(3), np.ones(3, bool), trajectory=f"t{k}")
        structure.energy, structure.forces, structure.stress = float(z), np.ones((1, 3)), np.eye(3)
        writer.append(structure)
    writer.finish()
    few = ["--set", "data.count=1", "--set", "data.validation=0.5"]
    result = run(*FEW, "--data", tmp_path / "data", "-o", tmp_path / "run", *few)
    assert result.exit_code == 0, result.output
    assert "validation structures have elements that are not in the training part" in result.stderr
    measured = CliRunner().invoke(main, ["evaluate", str(tmp_path / "run"), "--device", "cpu", "--json"])
    assert measured.exit_code == 0, measured.output
    best = Run.open(tmp_path / "run").info["best"]
    assert json.loads(measured.stdout)["fcn"]["energy_mae"] == pytest.approx(best["energy_mae"], rel=1e-5)


def test_an_overfit_check_says_how_far_the_loss_fell(alloys: PackedDataset, tmp_path: Path) -> None:
    result = run(*FEW, "--data", alloys.path, "-o", tmp_path / "run", "--overfit", "2", "-q")
    assert result.exit_code == 0, result.output
    assert "Loss on 2 structures:" in result.stdout


def paced(steps: int, seconds: float, each: float = 0.001) -> tuple[Pace, list[float]]:
    """After so many steps of so many seconds and 50 atoms, each of which does so much of the run; and its clock."""
    now = [100.0]
    pace = Pace(lambda: now[0])
    for k in range(1, steps + 1):
        now[0] += seconds
        pace.add(StepStatus(k, 0, k, 10, k * each, 50, seconds, 0.1 * seconds))
    return pace, now


def test_time_left_follows_from_the_share_that_is_done() -> None:
    pace, _ = paced(1, 0.5)
    assert pace.left() is None  # one step says little: it warms up
    pace, _ = paced(100, 0.5)
    assert pace.left() == pytest.approx(0.5 * 900, rel=0.01)
    assert "100 atoms/s  data wait 10%" in pace.text()


def test_time_left_grows_while_a_step_does_not_end() -> None:
    pace, now = paced(100, 0.5)
    before = pace.left()
    now[0] += 300
    assert before is not None
    assert pace.left() > 5 * before
    assert pace.text().startswith("8 atoms/s")


def test_time_left_follows_a_run_that_has_become_slow() -> None:
    pace, now = paced(200, 0.5)
    for k in range(201, 231):
        now[0] += 10
        pace.add(StepStatus(k, 0, k, 10, k * 0.001, 50, 10.0, 0.0))
    assert pace.left() == pytest.approx(10 * 770, rel=0.2)


def test_a_step_of_ten_times_the_usual_is_said_once() -> None:
    pace, now = paced(20, 0.5)
    assert pace.slower() is None
    now[0] += 4
    assert pace.slower() is None
    now[0] += 2
    assert "A step takes 6 s or longer now; before, it took 0.5 s" in str(pace.slower())
    assert pace.slower() is None
    pace.add(StepStatus(21, 0, 21, 10, 0.021, 50, 6.0, 0.0))
    assert pace.slower() is None
    pace.turn_to("validation")
    now[0] += 100
    assert pace.slower() is None  # a validation may take its time


def test_lines_go_on_while_a_step_lasts(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("matscale.cli.progress.reporter.EVERY", 0.2)
    lines = Lines()
    lines.pace.begin()
    lines._watch.start()
    lines.stepped(StepStatus(7, 0, 7, 10, 0.1, 50, 0.01, 0.0))
    time.sleep(2.0)
    lines.close()
    assert capfd.readouterr().err.count(" 10%  step 8  ") >= 2


def test_progress_is_plain_lines_off_a_terminal_and_nothing_when_quiet() -> None:
    with reporter() as progress:
        assert type(progress) is Lines
    with reporter(quiet=True) as progress:
        assert type(progress) is Reporter


@pytest.mark.parametrize("command", ["evaluate", "tune", "sweep", "fit", "data"])
@pytest.mark.parametrize(
    ("variable", "launcher"),
    [("SLURM_STEP_NUM_TASKS", "srun"), ("WORLD_SIZE", "torchrun"), ("OMPI_COMM_WORLD_SIZE", "mpirun")],
)
def test_tasks_that_would_do_the_same_work_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, command: str, variable: str, launcher: str
) -> None:
    monkeypatch.setenv(variable, "4")
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 2
    assert f"{launcher} has started 4 tasks of `matscale {command}`" in result.stderr
    monkeypatch.setenv("WORLD_SIZE", "1")  # each has work of its own
    assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0


def test_several_processes_must_be_told_which_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = run(*FEW)
    assert result.exit_code == 2
    assert "-o FOLDER" in result.stderr
