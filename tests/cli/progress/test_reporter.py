"""Progress goes to stderr: a line a stage in a log, a line that is drawn in place on a terminal."""

from __future__ import annotations

import pytest

from matscale.cli.progress.reporter import reporter


def test_a_log_gets_one_line_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with reporter() as progress:
        for done in range(3):
            progress.stage("Making the dataset", done, 3)
        progress.stage("Neighbour lists", 0, 3)
    captured = capsys.readouterr()
    assert captured.err == "Making the dataset ...\nNeighbour lists ...\n"
    assert captured.out == ""


def test_a_log_of_long_work_gets_counts_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matscale.cli.progress.reporter.EVERY", 0.0)
    with reporter() as progress:
        progress.stage("Packing", 1000, 4000)  # of a call that was interrupted
        progress.stage("Packing", 3000, 4000)
    begins, line = capsys.readouterr().err.splitlines()
    assert begins == "Packing ..."
    assert line.startswith("Packing: 3,000 of 4,000  ")
    assert line.endswith(" s left")


def test_a_terminal_gets_a_line_that_counts_and_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with reporter() as progress:
        progress.stage("Making the dataset", 1200, 4000)
        progress.stage("Making the dataset", 4000, 4000)
        progress.stage("Structures predicted", 7, 0)
    shown = capsys.readouterr().err
    assert "1,200 of 4,000" in shown
    assert "Making the dataset: 4,000 of 4,000\n" in shown
    assert "Structures predicted: 7\n" in shown


def test_a_message_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with reporter() as progress:
        progress.said("A warning.")
        progress.said("A warning.")
    assert capsys.readouterr().err == "A warning.\n"
