"""Progress goes to stderr: a line a stage in a log, a counting line on a terminal."""

from __future__ import annotations

import pytest

from matscale.cli.progress.stages import Stages


def test_a_log_gets_one_line_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with Stages() as stages:
        for done in range(3):
            stages("Making the dataset", done, 3)
        stages("Neighbour lists", 0, 3)
    captured = capsys.readouterr()
    assert captured.err == "Making the dataset ...\nNeighbour lists ...\n"
    assert captured.out == ""


def test_a_terminal_gets_a_line_that_counts_and_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Stages() as stages:
        stages("Making the dataset", 1200, 4000)
        stages("Making the dataset", 4000, 4000)
        stages("Structures predicted", 7, 0)
    shown = capsys.readouterr().err
    assert "1,200 of 4,000" in shown
    assert shown.endswith("Structures predicted: 7\n")
