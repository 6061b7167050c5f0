"""trackio writes under the run, says nothing, and goes on where it was."""

from __future__ import annotations

import json
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import pytest
from tracked import points, train_tracked

from matscale.core.data.store.packed import PackedDataset
from matscale.core.hosting.observers import PluginWarning

pytestmark = pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed (extra: trackers)")


def test_both_sessions_of_a_run_are_one_run_with_the_numbers_of_metrics_jsonl_and_a_second_folder_is_refused(
    alloys: PackedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    run = train_tracked(alloys, tmp_path / "run", "trackio")
    assert capfd.readouterr() == ("", "")
    with sqlite3.connect(run.path / "trackio" / "matscale.db") as database:
        rows = database.execute("select run_id, step, metrics from metrics order by id").fetchall()
    assert len({identity for identity, _, _ in rows}) == 1
    told = {(name, step): value for _, step, text in rows for name, value in json.loads(text).items()}
    assert told == pytest.approx(points(run), rel=1e-12)
    assert not (tmp_path / "hub").exists()

    with pytest.warns(PluginWarning, match=r"one folder per process.* the run goes on"):
        train_tracked(alloys, tmp_path / "other", "trackio")
