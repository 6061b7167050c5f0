"""wandb writes offline, says nothing, and knows a run again."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from tracked import points, train_tracked

from matscale.core.data.store.packed import PackedDataset

pytestmark = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed (extra: trackers)")


def test_both_sessions_of_a_run_lie_offline_under_one_identity_with_every_name(
    alloys: PackedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)  # even somebody who is logged in stays offline
    run = train_tracked(alloys, tmp_path / "run", "wandb")
    assert capfd.readouterr() == ("", "")
    identity = (run.path / "wandb" / "run-id").read_text().strip()
    logs = sorted((run.path / "wandb").glob(f"offline-run-*/run-{identity}.wandb"))
    assert len(logs) == 2
    told = b"".join(log.read_bytes() for log in logs)
    assert not [name for name, _ in points(run) if name.encode() not in told]
    assert run.info["status"] == "completed"
