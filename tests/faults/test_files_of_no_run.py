"""Pipes, devices and files of another run in place of a run's own: named, never waited for, never believed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from matscale.cli import main
from matscale.core.errors import MatscaleError
from matscale.core.files import open_file
from matscale.core.parsing import read_toml
from matscale.core.runs.files import LONGEST, Rows
from matscale.core.runs.record import Run
from matscale.core.runs.status import recorded
from synthetic_runs import make_run


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A small and a large finished run."""
    for seed, (name, size) in enumerate((("small", 3000), ("large", 30_000))):
        make_run(tmp_path / name, "schnet", size, 1000, seed, 4, "/data/salts")
        run = Run.open(tmp_path / name)
        run.save_config(run.config)
        run.seal()
        run.save_info()
    return tmp_path / "small", tmp_path / "large"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["run.json", "config.toml", "metrics.jsonl"])
def test_a_pipe_in_place_of_a_file_is_named_and_hides_no_other_run(two: tuple[Path, Path], name: str) -> None:
    small, large = two
    (large / name).unlink()
    os.mkfifo(large / name)
    listed = CliRunner().invoke(main, ["runs", "list", str(small.parent), "--json"])
    assert listed.exit_code == 0, listed.output
    rows = {row["run"]: row for row in json.loads(listed.stdout)}
    assert rows["small"]["status"] == "completed"
    with pytest.raises((MatscaleError, OSError), match="is not a regular file"):
        list(Run.open(large).rows)


def test_a_device_without_end_is_refused() -> None:
    with pytest.raises(OSError, match="is not a regular file"):
        open_file("/dev/zero")
    with pytest.raises(MatscaleError, match="is not a regular file"):
        read_toml(Path("/dev/zero"))


def test_a_row_that_fills_the_memory_is_passed_over(tmp_path: Path) -> None:
    with (tmp_path / "metrics.jsonl").open("wb") as file:
        file.write(b'{"step": 1}\n')
        file.truncate(3 * LONGEST)  # a hole of zeros
    assert list(Rows(tmp_path / "metrics.jsonl")) == [{"step": 1}]


def test_the_record_of_another_run_is_told(two: tuple[Path, Path]) -> None:
    small, large = two
    assert recorded(small).reason == ""
    shutil.copy(large / "run.json", small / "run.json")
    assert "run.json is another run's" in recorded(small).reason
    listed = CliRunner().invoke(main, ["runs", "list", str(small)])
    assert "run.json is another run's" in listed.stderr
