"""Runs as the report shows them: found, named, thinned; the damaged ones listed."""

from __future__ import annotations

import fcntl
from pathlib import Path

import numpy as np
import pytest

from matscale.core.errors import ConfigError, DataError
from matscale.core.report.analysis import analyse
from matscale.core.report.records import folders_of, read_records, short_names, thin
from matscale.core.runs.files import Rows
from matscale.core.scaling.tables.from_runs import read_runs
from synthetic_runs import make_run, make_study


def test_runs_are_found_in_folders_globs_and_studies(tmp_path: Path) -> None:
    for name in ("a", "study/runs/b", "study/trunks/c"):
        make_run(tmp_path / name)
    found = folders_of([str(tmp_path / "a*"), str(tmp_path / "study")])
    assert [folder.relative_to(tmp_path).as_posix() for folder in found] == ["a", "study/runs/b", "study/trunks/c"]
    assert short_names(found) == ["a", "study/runs/b", "study/trunks/c"]


def test_the_metrics_of_a_run_are_read_once_and_laws_see_what_a_fit_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path, architectures=("schnet",), sizes=(3000, 10_000), data=(1000, 3000))
    opened: list[str] = []
    lines = Rows._lines
    monkeypatch.setattr(Rows, "_lines", lambda self: opened.append(str(self.path)) or lines(self))
    analysis = analyse(read_records(folders_of([str(study)])), samples=50)
    assert len(opened) == len(set(opened)) == 4
    alone = read_runs(folders_of([str(study)]), {}, curves=True)
    assert analysis.table is not None
    for name in ("n", "d", "c", "loss", "step", "forces_mae"):
        np.testing.assert_array_equal(analysis.table[name], alone[name])


def test_runs_stand_in_the_order_of_their_sizes(tmp_path: Path) -> None:
    for name in ("schnet-13.9k-seed10", "schnet-30k-seed0", "schnet-3k-seed0", "schnet-13.9k-seed9", "schnet-1M-seed0"):
        make_run(tmp_path / name)
    names = [folder.name for folder in folders_of([str(tmp_path)])]
    assert names == [
        "schnet-3k-seed0", "schnet-13.9k-seed9", "schnet-13.9k-seed10", "schnet-30k-seed0", "schnet-1M-seed0"
    ]  # fmt: skip


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no run"):
        folders_of([str(tmp_path)])
    with pytest.raises(ConfigError, match="there is no such"):
        folders_of([str(tmp_path / "nothing")])


def test_a_table_is_refused_with_the_command_that_reads_it(tmp_path: Path) -> None:
    (tmp_path / "losses.csv").write_text("n,loss\n1,2\n")
    with pytest.raises(DataError, match=r"matscale fit .*losses\.csv"):
        folders_of([str(tmp_path / "losses.csv")])


@pytest.mark.parametrize("text", ['{"status": "comp', "[1, 2]", '{"status": "completed", "architecture": "schnet"}'])
def test_a_damaged_record_is_listed_and_the_others_are_shown(tmp_path: Path, text: str) -> None:
    make_run(tmp_path / "good")
    (make_run(tmp_path / "torn") / "run.json").write_text(text)
    records = read_records(folders_of([str(tmp_path)]))
    assert [run.name for run in records.runs] == ["good"]
    assert "is damaged" in records.damaged[0].reason


def test_damaged_rows_of_metrics_are_passed_over(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", n_validations=5)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*lines[:4], "{torn", *lines[4:]]) + '\n{"step": 3')
    assert len(read_records([run]).runs[0].curve["loss"]) == 5


def test_a_run_without_metrics_has_no_curve(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    assert read_records([run]).runs[0].curve["loss"] == []


def test_a_curve_has_errors_in_units_for_people_and_the_training_loss_between_validations(tmp_path: Path) -> None:
    import json

    run = make_run(tmp_path / "run", n_validations=3)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = read_records([run]).runs[0].curve
    assert curve["energy_mae"][-1] == pytest.approx(1000 * rows[-1]["energy_mae"], rel=1e-4)
    assert curve["train"] == pytest.approx([row["loss"] for row in rows if row["split"] == "train"], rel=1e-4)


def test_thinning_keeps_the_ends_and_is_denser_early() -> None:
    kept = thin(10_000, 40)
    assert (kept[0], kept[-1]) == (0, 9999)
    assert 30 <= len(kept) <= 40
    assert sum(k < 1000 for k in kept) > sum(k >= 9000 for k in kept)
    assert thin(5, 40) == [0, 1, 2, 3, 4]


def test_a_run_in_training_is_running_and_one_that_was_killed_is_not(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", status="running")
    assert read_records([run]).runs[0].status == "crashed"
    with (run / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert read_records([run]).runs[0].status == "running"
    assert read_records([run]).runs[0].status == "crashed"
