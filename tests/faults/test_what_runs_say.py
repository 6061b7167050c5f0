"""`matscale runs` and `evaluate`: sizes in order, fractions of an epoch, large numbers, and runs that ended early."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import matscale
from matscale.cli import main
from matscale.core.errors import ConfigError
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import Run


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def begun(path: Path, **info: object) -> Run:
    """A run that ended before its first step, with these values in run.json."""
    run = Run.create(path, TrainConfig.parse({"architecture": {"name": "fcn"}}))
    run.info.update(info)
    run.save_info()
    return run


def test_runs_are_listed_by_the_value_of_their_sizes(tmp_path: Path) -> None:
    names = ["fcn-300-seed0", "fcn-3k-seed2", "fcn-3k-seed10", "fcn-13.9k-seed0", "fcn-30k-seed0", "fcn-1M-seed0"]
    for name in sorted(names):
        begun(tmp_path / name, status="stopped")
    lines = cli("runs", "list", tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == names
    assert [row["run"] for row in json.loads(cli("runs", "list", tmp_path, "--json").stdout)] == names


def test_runs_show_prints_fractions_of_an_epoch_and_flops_in_short(tmp_path: Path) -> None:
    last = {"step": 8, "epoch": 0.8888888, "loss": 0.123456789}
    begun(tmp_path / "run", status="completed", epochs=0, flops=326041268.0, wall_s=12345.678, last=last)
    page = dict(line.split(maxsplit=1) for line in cli("runs", "show", tmp_path / "run").stdout.splitlines() if line)
    assert (page["epochs"], page["flops"], page["wall_s"]) == ("0.88889", "3.26e+08", "12,346")


CASES = [
    ({"status": "running"}, "Its status is crashed (it was killed, or the machine went down). Go on with it"),
    ({"status": "failed", "error": "DataError: no file"}, "failed (DataError: no file). Remove the cause, then go on"),
    ({"status": "stopped"}, "Its status is stopped. Go on with it: matscale train --resume -o"),
]


@pytest.mark.parametrize(("info", "message"), CASES, ids=str)
def test_a_run_that_ended_early_says_so_and_how_to_go_on(tmp_path: Path, info: dict[str, str], message: str) -> None:
    run = begun(tmp_path / "run", **info)
    result = cli("evaluate", run.path)
    assert result.exit_code == 2
    assert "ended before it had read its dataset" in result.stderr
    assert message in " ".join(result.stderr.split())
    assert "trained here" not in result.stderr
    with pytest.raises(ConfigError, match=r"ended before its first step\. Its status is"):
        matscale.evaluate(Run.open(run.path))
