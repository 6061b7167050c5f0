"""Bad input of `matscale compare`: a margin, a loss or a target that leaves nothing to say, groups of one member."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import matscale
from matscale.cli import main
from matscale.core.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cheaper") / "runs.csv"
    rng = np.random.default_rng(5)
    lines = [
        f"{arch},{n:g},{7 * n:g},{k * n**-0.3 * np.exp(0.01 * rng.standard_normal()):g},{0.1 * k * n**-0.2:.15g}"
        for arch, k in (("a", 30), ("b", 40))
        for n in np.geomspace(1e4, 1e6, 6).round()
    ]
    path.write_text("arch,n,flops,loss,kappa\n" + "\n".join([*lines, "alone,10000,70000,2,0.2"]) + "\n")
    return path


def run(table: Path, *arguments: object) -> Result:
    chosen = ("--arch", "a", "--arch", "b")
    return CliRunner().invoke(main, ["compare", str(table), *map(str, (*chosen, *arguments))])


def test_the_first_line_says_what_one_needs_of_the_other(table: Path) -> None:
    result = run(table, "--margin", "0.05", "--at-loss", "1")
    assert result.exit_code == 0, result.output
    first = result.stdout.split("\n")[0]
    assert first.startswith("For the same loss, b needs 2.")
    assert first.endswith(" the parameters of a (at 1)")
    assert "a and b: EQUAL WITHIN 0.05" in result.stdout
    assert "hours of b / a: unknown: no hours are recorded" in result.stdout


def test_any_column_is_a_target(table: Path) -> None:
    result = run(table, "--target", "kappa")
    assert result.stdout.startswith("For the same kappa, b needs 4.21")
    assert "loss of" not in result.stdout.split("\n")[0]


@pytest.mark.parametrize("margin", ["0", "-0.02", "nan", "inf"])
def test_a_margin_that_is_not_positive_is_refused(table: Path, margin: str) -> None:
    result = run(table, "--margin", margin)
    assert result.exit_code == 2
    assert "difference of exponents that does not matter, and must be a finite number above 0" in result.stderr


@pytest.mark.parametrize("loss", ["0.01", "100", "0", "-1", "nan"])
def test_a_loss_outside_the_points_is_refused_with_the_range(table: Path, loss: str) -> None:
    result = run(table, "--at-loss", "1", "--at-loss", loss)
    assert result.exit_code == 2
    assert f"--at-loss {float(loss):g}: no two architectures have points on both sides of this loss" in result.stderr
    assert "a and b 0.6" in result.stderr


def test_a_loss_where_nothing_can_be_said_is_refused_with_the_reason(table: Path) -> None:
    rows = [{"arch": a, "n": n, "loss": k * n**-0.3} for a, k in (("a", 1), ("b", 1e3)) for n in (1e3, 1e4, 1e5, 1e6)]
    with pytest.raises(ConfigError, match="no multiplier can be stated: there is no loss that both have points"):
        matscale.compare(rows, axis="n", at_loss=1.0)


def test_a_target_that_is_not_there_is_refused_with_the_columns(table: Path) -> None:
    result = run(table, "--target", "kapa")
    assert result.exit_code == 2
    assert "has no column 'kapa'" in result.stderr
    assert "Did you mean 'kappa'?" in result.stderr


def test_a_group_of_one_member_is_named(table: Path) -> None:
    result = run(table, "--arch", "alone")
    assert result.exit_code == 3
    assert "alone: 1 distinct value of n" in result.stderr or "alone: 1 distinct value of c" in result.stderr
    with pytest.raises(DataError, match="name them with --arch"):
        matscale.compare(str(table))
