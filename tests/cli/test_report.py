"""`matscale report` as a user types it: one line said, files written, contradictions refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from matscale.cli import main
from matscale.core.report import build
from matscale.core.report.build import Panel
from synthetic_runs import make_run, make_study


def report(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_it_writes_the_page_and_says_where_and_how_large_it_is(tmp_path: Path) -> None:
    make_run(tmp_path / "runs/a")
    page = tmp_path / "page.html"
    result = report(tmp_path / "runs", "-o", page, "--no-baselines")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{page}  {page.stat().st_size / 1e6:.1f} MB, 1 runs\n"
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["{runs}", "--serve", "-o", "x.html"], 2, "--serve writes no file"),
        (["{runs}", "--port", "80"], 2, "add --serve"),
        (["{runs}", "--format", "png"], 2, "--figures DIR"),
        (["{runs}", "-o", "{runs}/no/folder/x.html"], 2, "there is no folder"),
        (["{runs}/empty"], 3, "there is no run"),
        (["{runs}/nothing"], 2, "there is no such"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    make_run(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    result = report(*(argument.format(runs=tmp_path) for argument in arguments))
    assert (result.exit_code, said in result.stderr) == (code, True), result.output


@pytest.mark.long
def test_figures_are_written_for_a_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kaleido", reason="kaleido is not installed (extra figures)")
    if not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no Chromium on this machine: static figures are not tried")
    make_study(tmp_path / "runs", architectures=("schnet",), data=(1000,))
    write, all_names = build.write_figures, []

    def write_two(panels: list[Panel], *given: Any) -> list[Path]:  # a browser takes a second for each
        all_names.extend(panel.name for panel in panels)
        return write([panel for panel in panels if panel.name in ("loss-n", "curves")], *given)

    monkeypatch.setattr(build, "write_figures", write_two)
    result = report(
        tmp_path / "runs", "-o", tmp_path / "r.html", "--figures", tmp_path / "f", "--format", "svg", "--format", "pdf"
    )
    assert result.exit_code == 0, result.output
    assert {"loss-n", "curves", "exponents", "error-forces"} <= set(all_names)
    assert {path.name for path in (tmp_path / "f").iterdir()} == {
        f"{name}.{kind}" for name in ("loss-n", "curves") for kind in ("svg", "pdf")
    }
    assert "Loss against parameters" in (tmp_path / "f/loss-n.svg").read_text()
    assert (tmp_path / "f/loss-n.pdf").read_bytes().startswith(b"%PDF")


def test_without_kaleido_figures_are_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "kaleido", None)
    make_run(tmp_path / "runs/a")
    result = report(tmp_path / "runs", "-o", tmp_path / "r.html", "--figures", tmp_path / "f", "--no-baselines")
    assert result.exit_code == 1
    assert 'pip install "matscale[figures]"' in result.stderr
