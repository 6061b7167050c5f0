"""`matscale properties` as it is typed, and laws of its rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from matscale.cli import main
from matscale.core.runs.record import Run

MakeRun = Callable[..., Run]
TINY = {"hidden": 8, "filters": 8, "n_radial": 8, "n_layers": 1, "cutoff": 4.0}


def matscale(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_a_run_is_measured_and_its_row_written(make_run: MakeRun, tmp_path: Path) -> None:
    run, page, rows = make_run("schnet", **TINY), tmp_path / "page.html", tmp_path / "rows.jsonl"
    line = ("properties", run.path, "--crystals", "Cu", "--only", "path,nve,diatomic", "--duration", 0.02)
    result = matscale(*line, "-o", page, "--json", rows)
    assert result.exit_code == 0, result.output
    assert "NVE drift" in result.stdout
    (row,) = [json.loads(text) for text in rows.read_text().splitlines()]
    assert row["arch"] == "schnet"
    assert row["nve_drift"] == pytest.approx(abs(row["crystals"]["Cu"]["nve"]["drift"]))
    assert row["crystals"]["Cu"]["nve"]["time_step"] == 2.0
    assert row["path_force_error"] > 0
    assert row["Cu-Cu_bond_length_error"] >= 0
    text = page.read_text()
    assert "reference: emt" in text
    assert "src=" not in text.partition("<body>")[2].partition("<script")[0]
    printed = matscale(*line, "-o", page, "--reference", "none", "--json")
    assert "path_force_error" not in json.loads(printed.stdout)[0]


def test_the_drift_of_direct_forces_is_reported(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("fcn")
    line = ("properties", run.path, "--crystals", "Cu", "--only", "nve", "--duration", 0.02)
    result = matscale(*line, "-o", tmp_path / "page.html", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["nve_drift"] > 0


@pytest.mark.parametrize(
    ("more", "told", "code"),
    [
        (["--only", "eos,elastik"], "There is no property 'elastik'. Did you mean 'elastic'?", 2),
        (["--crystals", "NaCl"], "NaCl: schnet was not trained on Cl, Na.", 3),
        (["--reference", "nowhere"], "--reference nowhere: there is no such run.", 2),
    ],
)
def test_bad_requests_are_refused(make_run: MakeRun, tmp_path: Path, more: list[str], told: str, code: int) -> None:
    result = matscale("properties", make_run("schnet", **TINY).path, "-o", tmp_path / "page.html", *more)
    assert result.exit_code == code
    assert told in result.stderr
    assert not (tmp_path / "page.html").exists()


def test_a_run_without_checkpoints_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("schnet", steps=(), **TINY)
    result = matscale("properties", run.path, "-o", tmp_path / "page.html")
    assert result.exit_code == 2
    assert "checkpoint" in result.stderr


def test_laws_are_fitted_to_a_column_of_the_rows(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), []
    for n in (1e3, 3e3, 1e4, 3e4, 1e5, 3e5):
        for seed in range(3):
            error = 40 * n**-0.3 * np.exp(0.02 * rng.standard_normal())
            row = {"run": f"runs/{n:g}-{seed}", "arch": "schnet", "seed": seed, "step": 100, "n": n, "d": 1000.0}
            nested = {"Cu": {"eos": {"volumes": [1.0, 2.0]}}}
            rows.append({**row, "c": 1e9 * n, "bulk_modulus_error": error, "reference": "emt", "crystals": nested})
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ("fit", table, "--target", "bulk_modulus_error", "--law", "n", "--no-baselines", "--samples", 50, "--json")
    result = matscale(*line)
    assert result.exit_code == 0, result.output
    (law,) = json.loads(result.stdout)
    assert law["parameters"]["alpha"] == pytest.approx(0.3, abs=0.03)
