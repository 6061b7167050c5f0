"""`matscale sweep`, `runs` and `tune` from the command line: what they print, what they leave, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from matscale.cli import main
from matscale.cli.progress.reporter import Drawn
from matscale.core.data.store.packed import PackedDataset
from matscale.core.estimate.timing import Timing
from matscale.core.runs.status import State
from matscale.core.study.sweep import Sweep
from studies import FakePool, planned, rows, study_file, wait_for


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, alloys: PackedDataset) -> Path:
    """The folder of a study of two runs that were really trained."""
    folder = tmp_path_factory.mktemp("done")
    file = study_file(folder, alloys.path, params=["2k"], local={"workers": 1, "threads": 1})
    result = run("sweep", file)
    assert result.exit_code == 0, result.output
    assert "2 runs: 2 completed; spent: " in result.stdout
    assert "2 of 2 done" in result.stderr
    return folder / "study"


def test_a_study_leaves_runs_with_its_labels_and_a_ledger(done: Path) -> None:
    for row in rows(done):
        info = json.loads((Path(row["path"]) / "run.json").read_text())
        assert info["status"] == row["status"] == "completed"
        assert info["labels"]["study"] == row["study"] == "study"
        assert info["labels"]["identity"] == row["identity"]
        assert (info["seed"], info["flops"], info["dataset"]["train"]) == (row["seed"], row["flops"], row["train"])
        assert info["parameters"]["non_embedding"] == row["non_embedding"]
        assert row["loss"] == info["best"]["loss"]


def test_a_completed_study_starts_nothing(done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done / "runs").rglob("*")}
    result = run("sweep", done.parent / "study.toml", "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert {path: path.stat().st_mtime_ns for path in (done / "runs").rglob("*")} == before


def test_runs_list_filters_and_prints_json(done: Path) -> None:
    table = run("runs", "list", done)
    assert table.exit_code == 0, table.output
    heading, *_, total = table.stdout.splitlines()
    assert len(table.stdout.splitlines()) == 4
    assert heading.startswith("RUN")
    assert total.startswith("2 runs; spent: ")
    for options, n in (
        ((), 2),
        (("--status", "completed"), 2),
        (("--status", "failed"), 0),
        (("--arch", "fcn"), 2),
        (("--arch", "schnet"), 0),
        (("--study", "study"), 2),
        (("--study", "another"), 0),
    ):
        listed = json.loads(run("runs", "list", done, "--json", *options).stdout)
        assert len(listed) == n, options


def test_runs_list_prints_the_ledger_as_csv(done: Path) -> None:
    assert run("runs", "list", done, "--csv").stdout == (done / "runs.csv").read_text()
    assert run("runs", "list", done, "--csv", "--json").exit_code == 2


def test_a_training_by_itself_is_listed_as_running_while_it_lives_and_crashed_once_killed(
    tmp_path: Path, alloys: PackedDataset
) -> None:
    folder = tmp_path / "run"
    command = ["train", "--arch", "fcn", "--params", "2k", "--data", alloys.path, "--steps", 10_000_000, "-o", folder]
    command += ["--device", "cpu", "--no-baselines", "--quiet"]
    with subprocess.Popen([sys.executable, "-m", "matscale", *map(str, command)]) as process:
        try:
            wait_for(lambda: (folder / "metrics.jsonl").exists() or process.poll() is not None)
            assert [row["status"] for row in listed(tmp_path)] == ["running"]
        finally:
            process.kill()
    assert [row["status"] for row in listed(tmp_path)] == ["crashed"]


def listed(folder: Path, *options: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(run("runs", "list", folder, "--json", *options).stdout)
    return rows


def test_what_a_study_of_cooldowns_has_spent_counts_the_trunk_once(tmp_path: Path, alloys: PackedDataset) -> None:
    values = {"params": ["2k"], "seeds": [0], "budget": None, "wsd": {"steps": [10, 20]}}
    file = study_file(tmp_path, alloys.path, **values, local={"workers": 1, "threads": 1})
    swept = run("sweep", file, "--quiet")
    assert swept.exit_code == 0, swept.output
    rows = {row["role"] + str(row["steps"]): row for row in listed(tmp_path / "study")}
    trunk, short, long = (rows[name] for name in ("trunk16", "run10", "run20"))
    assert short["branch_of"] == long["branch_of"] == trunk["run"]
    assert long["flops_shared"] == trunk["flops"] > short["flops_shared"] > 0
    told = f"spent: {long['flops'] + short['flops'] - short['flops_shared']:.3g} FLOPs"
    assert told in swept.stdout
    assert told in run("runs", "list", tmp_path / "study").stdout
    assert told in run("runs", "list", tmp_path / "study" / "runs").stdout


def test_runs_show_says_what_a_run_is_and_how_well_it_does(done: Path) -> None:
    path = rows(done)[0]["path"]
    page = run("runs", "show", path).stdout
    for told in ("status", "completed", "non_embedding", "energy MAE", "best", "last"):
        assert told in page
    assert json.loads(run("runs", "show", path, "--json").stdout)["status"] == "completed"
    assert run("runs", "show", done).exit_code == 2


def test_a_dry_run_estimates_the_grid_and_makes_nothing(tmp_path: Path, alloys: PackedDataset) -> None:
    file = study_file(tmp_path, alloys.path)
    result = run("sweep", file, "--dry-run", "--json", "--device", "H100")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert len(found["runs"]) == 4
    for row in found["runs"]:
        assert row["steps"] == 6
        assert row["flops"] > 0
        assert (row["status"], row["device"]) == ("planned", "H100")
    assert found["to_do"] == found["total"]
    assert found == json.loads(run("estimate", file, "--json", "--on", "H100").stdout)
    assert not (tmp_path / "study").exists()


def test_a_dry_run_times_each_kind_of_step_once(
    tmp_path: Path, alloys: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []
    monkeypatch.setattr(
        "matscale.core.estimate.estimate.timed", lambda *given: timed.append(given[4]) or Timing(1e-9, 1e-9, 0, 0)
    )
    data = {"path": str(alloys.path), "counts": [8, 16]}
    file = study_file(tmp_path, alloys.path, data=data, lr=[1e-3, 3e-3], budget={"epochs": [1, 2]})
    result = run("sweep", file, "--dry-run")
    assert result.exit_code == 0, result.output
    heading, *listed, total, basis, _ = result.stdout.splitlines()
    assert " ".join(heading.split()) == "RUN PARAMETERS N STRUCTURES STEPS FLOPS MEMORY TIME DISK STATUS"
    assert len(listed) == 2 * 2 * 2 * 2 * 2  # sizes, seeds, counts, rates, lengths
    assert {tuple(row.split()[3:5]) for row in listed} == {("8", "2"), ("8", "4"), ("16", "4"), ("16", "8")}
    assert total.startswith("total")
    assert basis.endswith("were timed here for 2 kinds of step.")
    assert timed == [3, 3]


def test_what_is_complete_is_not_to_do(done: Path) -> None:
    file = done.parent / "study.toml"
    found = json.loads(run("sweep", file, "--dry-run", "--json", "--device", "H100").stdout)
    assert [row["status"] for row in found["runs"]] == ["completed"] * 2
    assert found["total"]["flops"] > found["to_do"]["flops"] == 0
    real = {row["run"]: row["flops"] for row in rows(done)}
    assert all(row["flops"] == pytest.approx(real[row["run"]], rel=0.02) for row in found["runs"])


def test_a_dry_run_counts_a_trunk_once(tmp_path: Path, alloys: PackedDataset) -> None:
    file = study_file(tmp_path, alloys.path, params=["2k"], seeds=[0], budget=None, wsd={"steps": [20, 40]})
    found = json.loads(run("sweep", file, "--dry-run", "--json", "--device", "H100").stdout)
    trunk, *branches = found["runs"]
    assert trunk["role"] == "trunk"
    assert [row["flops_shared"] / row["flops"] for row in branches] == pytest.approx([0.8, 0.8])
    assert trunk["flops"] == pytest.approx(branches[1]["flops_shared"])
    own = [row["flops"] - row["flops_shared"] for row in branches]
    assert found["total"]["flops"] == pytest.approx(trunk["flops"] + sum(own))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"architectures": ["schnett"]}, "Did you mean 'schnet'"),
        ({"budgets": {"steps": 3}}, "Did you mean 'budget'"),
        ({"set": {"optimizer": {"lrr": 1}}}, "Did you mean 'lr'"),
        ({"grid": {"batch.structure": [4]}}, "Did you mean 'structures'"),
        ({"seeds": []}, "the grid is empty"),
        ({"budget": {"flops": 10}}, "is too small for one step"),
        ({"budget": {"flops": 10}}, "least_steps = 2 or more"),
        ({"budget": {"flops": 10, "least_steps": 5}}, "grid of study is empty"),
    ],
)
def test_a_bad_study_ends_with_exit_2_and_nothing_is_made(
    tmp_path: Path, alloys: PackedDataset, values: dict[str, Any], told: str
) -> None:
    result = run("sweep", study_file(tmp_path, alloys.path, **values))
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--launcher", "slrum"], "Did you mean 'slurm'"),
        (["--no-wait"], "end with the sweep"),
        (["--launcher", "slurm", "--workers", "2"], "works only with --launcher local"),
        (["--json"], "work only with --dry-run"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, alloys: PackedDataset, options: list[str], told: str
) -> None:
    result = run("sweep", study_file(tmp_path, alloys.path), *options)
    assert result.exit_code == 2, result.output
    assert told in result.stderr


def test_a_slurm_that_is_not_there_ends_with_exit_2(
    tmp_path: Path, alloys: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run("sweep", study_file(tmp_path, alloys.path), "--launcher", "slurm")
    assert result.exit_code == 2
    assert "needs sbatch" in result.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "there is no submit, state, states, queued, cancel. Set preset = one of sge, pbs, lsf"),
        (("--set", "command.preset=sgee"), "preset = 'sgee': there is no such preset"),
        (("--set", "command.preset=sge"), "The launcher command needs qsub"),
        (("--set", "command.submit=qsub"), "there is no state, states, queued, cancel"),
    ],
)
def test_an_engine_that_is_not_there_or_not_described_ends_with_exit_2(
    tmp_path: Path, alloys: PackedDataset, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], told: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run("sweep", study_file(tmp_path, alloys.path), "--launcher", "command", *options)
    assert result.exit_code == 2, result.output
    assert told in result.stderr


def test_a_run_that_cannot_be_trained_is_told_and_the_others_are_done(tmp_path: Path, alloys: PackedDataset) -> None:
    """A learning rate of 1e30 makes the loss non-finite in the second step: exit 4, not tried again."""
    file = study_file(
        tmp_path, alloys.path, params=["2k"], seeds=[0], lr=[1e-3, 1e30], local={"workers": 1, "threads": 1}
    )
    result = run("sweep", file)
    assert result.exit_code == 1, result.output
    assert "1 of 2 runs are not done" in result.stderr
    assert "NonFiniteLossError" in result.stderr
    assert sorted(row["status"] for row in rows(tmp_path / "study")) == ["completed", "failed"]


def test_a_full_disk_is_named_and_costs_no_finished_run(tmp_path: Path, alloys: PackedDataset) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    try:
        options = {"output": str(disk / "study"), "params": ["2k"], "local": {"workers": 1, "threads": 1}}
        file = study_file(tmp_path, alloys.path, **options, seeds=[0, 1, 2, 3], retries=0)
        result = run("sweep", file)
        assert result.exit_code == 1, result.output
        assert "No space left on device" in result.output
        assert len(rows(disk / "study")) == 4  # the ledger is whole
        complete = {path: path.read_bytes() for path in disk.glob("study/runs/*/metrics.jsonl") if _is_done(path)}
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        result = run("sweep", file)
        assert result.exit_code == 0, result.output
        assert all(path.read_bytes() == content for path, content in complete.items())
        assert [row["status"] for row in rows(disk / "study")] == ["completed"] * 4
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def _is_done(metrics: Path) -> bool:
    try:
        return bool(json.loads((metrics.parent / "run.json").read_text())["status"] == "completed")
    except (OSError, ValueError):
        return False


# What is shown meanwhile --------------------------------------------------------------------------------------------


def test_the_table_says_what_is_done_running_and_left(
    tmp_path: Path, alloys: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    monkeypatch.setattr("matscale.core.study.sweep.PAUSE", 0.0)
    plan = planned(tmp_path, alloys.path)
    drawn = Drawn()
    try:
        sweep = Sweep(plan, FakePool(), drawn)
        sweep.run()
        done, running, failed, waiting = plan.runs
        sweep.states |= {running.path: State("running"), failed.path: State("failed"), waiting.path: State("planned")}
        assert drawn.clock is not None
        drawn.clock.seconds = {done.name: 30.0}
        console = Console(width=200)
        with console.capture() as capture:
            console.print(drawn.grid(sweep))
    finally:
        drawn.close()
    picture = capture.get()
    assert "1 of 4 done, 1 running, 1 waiting, 1 failed" in picture
    assert "of device time left" in picture
    assert running.name in picture


# tune ---------------------------------------------------------------------------------------------------------------


def test_tune_writes_a_law_that_a_study_takes(
    tmp_path: Path, alloys: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fast = ["--set", "compute.threads=1", "--set", "compute.device=cpu", "--workers", "1", "-q"]
    grid = ["--from", "3e-3", "--to", "0.3", "--steps", "4"]
    result = run("tune", "--arch", "fcn", "--params", "1k", "--data", alloys.path, "-o", "lr.toml", *grid, *fast)
    assert result.exit_code == 0, result.output
    heading, row, sentence = result.stdout.splitlines()
    assert heading.split() == ["PARAMETERS", "BEST", "LR", "LOSS", "AT", "LR/2", "AT", "2", "LR"]
    assert "no interval: fewer than three sizes" in sentence
    plan = planned(tmp_path, alloys.path, lr="lr.toml", seeds=[0])
    assert plan.runs[0].config.optimizer.lr == pytest.approx(float(row.split()[1]), rel=1e-2)
    kept = tmp_path / f"studies/tune-fcn-{alloys.path.name}-{alloys.hash[:8]}"
    assert {one["status"] for one in rows(kept)} == {"completed"}
    trained = {path: path.stat().st_mtime_ns for path in kept.glob("runs/*/run.json")}
    again = run("tune", "--arch", "fcn", "--params", "1k", "--data", alloys.path, "-o", "lr.toml", *grid, *fast)
    assert again.stdout == result.stdout
    assert {path: path.stat().st_mtime_ns for path in kept.glob("runs/*/run.json")} == trained


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--epochs", "3", "--steps", "3"], "give one of them"),
        (["--batch", "4,8", "--steps", "3"], "by --epochs, not --steps"),
        (["--batch", "4,x"], "not a valid integer"),
        (["--params", "3k,3k"], "not all different"),
        (["--from", "1", "--to", "0.1"], "must start above 0 and increase"),
    ],
)
def test_a_mistaken_tuning_is_refused(tmp_path: Path, options: list[str], told: str) -> None:
    result = run("tune", "--arch", "fcn", "--params", "1k", "-o", tmp_path / "lr.toml", *options)
    assert result.exit_code == 2
    assert told in result.stderr
