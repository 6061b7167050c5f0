"""Rows of measured properties have the sizes that laws of run folders have."""

from __future__ import annotations

from pathlib import Path

from matscale.core.runs.record import Run
from matscale.core.scaling.tables.from_runs import read_runs
from matscale.core.scaling.tables.of_properties import row_of
from synthetic_runs import make_run


def test_a_row_has_the_sizes_that_are_read_of_the_run_folder(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", size=10_000, count=1000, seed=2)
    row, reason = row_of(Run.open(folder), 7, {}, None)
    table = read_runs([folder], {})
    assert reason == ""
    assert (row["arch"], row["seed"], row["step"]) == ("schnet", 2, 7)
    assert {name: row[name] for name in "ndc"} == {name: table[name][-1] for name in "ndc"}


def test_a_run_that_no_law_can_use_has_no_sizes_and_a_reason(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", status="stopped")
    row, reason = row_of(Run.open(folder), 7, {}, None)
    assert "n" not in row
    assert "is not complete (status: stopped)" in reason
