"""`matscale estimate` and `matscale models ladder`: figures before anything is spent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from matscale.cli import main
from matscale.cli.text import duration, size_of
from matscale.core.data.named import cache, published
from matscale.core.data.store.packed import PackedDataset


def matscale(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


SMALL = ("--arch", "fcn", "--params", "3k", "--epochs", "2", "--batch", "4", "--device", "cpu")


def test_the_page_has_a_line_for_each_thing_that_is_spent(alloys: PackedDataset) -> None:
    result = matscale("estimate", *SMALL, "--data", str(alloys.path), "--time-steps", "1")
    assert result.exit_code == 0, result.stderr
    for word in ("parameters", "steps", "FLOPs", "memory", "time", "disk", "timed on this machine", "(measured)"):
        assert word in result.stdout


def test_json_has_the_figures_in_plain_units(alloys: PackedDataset) -> None:
    result = matscale("estimate", *SMALL, "--data", str(alloys.path), "--on", "A100", "--mfu", "0.3", "--json")
    found = json.loads(result.stdout)
    assert found["seconds_by"] == "peak × MFU"
    assert found["flops"] == pytest.approx(found["flops_per_step"] * found["steps"])
    assert found["seconds"] == pytest.approx((found["flops"] + found["validation_flops"]) / 0.3 / 19.5e12)
    assert found["memory_bytes"] > found["activation_bytes"] > 0


def test_the_configuration_is_that_of_train_set_and_file_included(alloys: PackedDataset, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[architecture]\nname = "fcn"\n[budget]\nsteps = 50\n')
    result = matscale(
        "estimate",
        *("--config", str(file), "--data", str(alloys.path), "--time-steps", "0", "--json"),
        *("--set", "architecture.config.hidden=9", "--steps", "7"),
    )
    found = json.loads(result.stdout)
    assert found["steps"] == 7
    shown = json.loads(matscale("models", "show", "fcn", "--params", "30k", "--set", "hidden=9", "--json").stdout)
    assert found["parameters"] == shown["parameters"]


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("--max-flops", "10"), "is too small for one step"),
        (("--on", "A1000"), "Did you mean 'A100'?"),
        (("--set", "budget.step=3"), "Did you mean 'steps'?"),
        (("--mfu", "2"), "2.0 is not in the range 0<x<=1"),
    ],
)
def test_a_wrong_wish_ends_with_2_and_says_what_is_right(
    alloys: PackedDataset, arguments: tuple[str, ...], answer: str
) -> None:
    result = matscale("estimate", "--arch", "fcn", "--data", str(alloys.path), "--time-steps", "0", *arguments)
    assert result.exit_code == 2
    assert answer in result.stderr


def test_an_architecture_must_be_named() -> None:
    result = matscale("estimate")
    assert result.exit_code == 2
    assert "Say which architecture" in result.stderr


def test_a_study_has_no_options_of_a_single_run(tmp_path: Path) -> None:
    result = matscale("estimate", str(tmp_path / "study.toml"), "--arch", "fcn")
    assert result.exit_code == 2
    assert "a study file sets all options of its runs" in result.stderr


def study(folder: Path, data: PackedDataset, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(
        f'architectures = ["fcn"]\nparams = ["3k", "9k"]\nseeds = [0, 1]\n{text}[data]\npath = "{data.path}"\n'
    )
    return path


def test_a_study_is_estimated_run_by_run_and_in_all(alloys: PackedDataset, tmp_path: Path) -> None:
    path = study(tmp_path, alloys, "budget.epochs = 2\n")
    found = json.loads(matscale("estimate", str(path), "--on", "A100", "--mfu", "0.2", "--json").stdout)
    assert len(found["runs"]) == 4
    alone = matscale(
        *("estimate", "--arch", "fcn", "--params", "3k", "--epochs", "2", "--data", str(alloys.path)),
        *("--on", "A100", "--mfu", "0.2", "--json"),
    )
    small = [run for run in found["runs"] if run["parameters"]["total"] < 5_000]
    assert [run["flops"] for run in small] == [json.loads(alone.stdout)["flops"]] * 2
    assert found["total"]["flops"] == pytest.approx(sum(run["flops"] for run in found["runs"]))
    lines = matscale("estimate", str(path), "--on", "A100").stdout.splitlines()
    assert " ".join(lines[0].split()) == "RUN PARAMETERS N STRUCTURES STEPS FLOPS MEMORY TIME DISK STATUS"
    assert lines[5].startswith("total")
    assert {int(line.split()[2].replace(",", "")) for line in lines[1:5]} == {
        run["parameters"]["non_embedding"] for run in found["runs"]
    }
    assert "N: parameters without embeddings, which laws use." in lines[6]
    assert "5 % of 1.95e+13 FLOP/s is assumed" in lines[6]


def test_what_runs_of_a_study_share_is_spent_once(alloys: PackedDataset, tmp_path: Path) -> None:
    path = study(tmp_path, alloys, "wsd.steps = [20, 40]\n")
    found = json.loads(matscale("estimate", str(path), "--on", "A100", "--json").stdout)
    assert len(found["runs"]) == 12  # a trunk and two branches for each size and seed
    trunks = [run for run in found["runs"] if run.get("role") == "trunk"]
    branches = [run for run in found["runs"] if run.get("role") != "trunk"]
    assert all(run["flops_shared"] == pytest.approx(0.8 * run["flops"], rel=0.05) for run in branches)
    spent = sum(run["flops"] for run in trunks) + sum(run["flops"] - run["flops_shared"] for run in branches)
    assert found["total"]["flops"] == pytest.approx(spent)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "0.25 s"), (59.9, "59.9 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_are_written_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("n_bytes", "text"), [(500, "0.5 kB"), (2.5e6, "2.5 MB"), (3e9, "3 GB"), (4.25e12, "4.25 TB")])
def test_sizes_are_written_in_the_unit_that_fits(n_bytes: float, text: str) -> None:
    assert size_of(n_bytes) == text


# The ladder ---------------------------------------------------------------------------------------------------------


def test_a_ladder_is_even_in_the_logarithm_and_has_both_ends() -> None:
    result = matscale("models", "ladder", "schnet", "--from", "10k", "--to", "10M", "--rungs", "4", "--json")
    rungs = json.loads(result.stdout)
    assert [rung["wanted"] for rung in rungs] == [10_000, 100_000, 1_000_000, 10_000_000]
    for rung in rungs:
        assert abs(rung["deviation"]) < 0.05
        assert rung["parameters"]["total"] == pytest.approx(rung["wanted"] * (1 + rung["deviation"]))
        assert rung["flops_per_atom"] > 0


def test_the_table_of_a_ladder_names_the_dial_and_shows_what_varies() -> None:
    text = matscale("models", "ladder", "schnet", "--rungs", "2").stdout
    assert "schnet: hidden channels (as many filters), 3 interactions" in text
    heading = text.splitlines()[1].split()
    assert heading[-2:] == ["hidden", "filters"]
    assert "cutoff" not in text


@pytest.mark.parametrize("ends", [("10k", "3k"), ("5k", "5k")])
def test_a_ladder_that_does_not_rise_is_refused(ends: tuple[str, str]) -> None:
    result = matscale("models", "ladder", "fcn", "--from", ends[0], "--to", ends[1], "--rungs", "3")
    assert result.exit_code == 2
    assert "a growing range" in result.stderr


def test_a_ladder_of_an_unknown_architecture_is_answered_with_the_nearest() -> None:
    result = matscale("models", "ladder", "shcnet")
    assert result.exit_code == 2
    assert "Did you mean 'schnet'?" in result.stderr


@pytest.mark.parametrize("command", [("estimate",), ("sweep", "--dry-run")])
def test_an_estimate_says_what_to_fetch_and_downloads_nothing(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(published.OMAT24_VARIABLE, "http://127.0.0.1:9/")
    path = tmp_path / "study.toml"
    path.write_text('architectures = ["fcn"]\nparams = "3k"\ndata.path = "omat24/rattled-300-subsampled"\n')
    result = matscale(*command, str(path))
    assert result.exit_code == 3
    assert "Download it first (6,400 MB): matscale data fetch omat24/rattled-300-subsampled" in result.stderr
    assert not (tmp_path / "cache").exists()
