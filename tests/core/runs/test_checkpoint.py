"""Checkpoints are whole or not there: damage of any file is found, and the one before is used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from matscale.core.errors import MatscaleError
from matscale.core.runs import checkpoint
from matscale.core.runs.checkpoint import Checkpoint, DamagedCheckpoint

FILES = ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


def make(step: int) -> Checkpoint:
    g = torch.Generator().manual_seed(step)
    weight = torch.randn(4, 3, generator=g)
    return Checkpoint(
        step,
        {"weight": weight, "tied": weight, "transposed": weight.T},
        {"weight": weight + 1},
        {"weight.step": torch.tensor(float(step)), "weight.exp_avg": weight.double()},
        {"epoch": 2, "sums": [0.1 + 0.2, 1e-300]},
    )


def test_a_checkpoint_round_trip_is_bitwise(tmp_path: Path) -> None:
    saved = make(5)
    loaded = checkpoint.load(checkpoint.save(tmp_path, saved))
    assert loaded.step == 5
    assert loaded.state == saved.state
    for name in ("model", "ema", "optimizer"):
        ours, theirs = getattr(saved, name), getattr(loaded, name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) and ours[k].dtype == theirs[k].dtype for k in ours)
    assert checkpoint.pointer(tmp_path, "last") == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "step_5"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["cut", "flip", "delete"])
def test_damage_to_any_file_is_found_and_the_checkpoint_before_is_used(tmp_path: Path, name: str, harm: str) -> None:
    checkpoint.save(tmp_path, make(5))
    path = checkpoint.save(tmp_path, make(10)) / name
    content = bytearray(path.read_bytes())
    if harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    with pytest.raises(DamagedCheckpoint, match=r"step_10"):
        checkpoint.load(tmp_path / "step_10")
    with pytest.warns(UserWarning, match="The checkpoint before it is used"):
        assert checkpoint.load_latest(tmp_path).step == 5


def test_a_manifest_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, make(5))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../last"] = {"size": 2, "sha256": "0"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedCheckpoint, match="missing"):
        checkpoint.verify(folder)


def test_an_unfinished_folder_is_not_a_checkpoint_and_is_cleared_away(tmp_path: Path) -> None:
    leftover = tmp_path / ".step_7.partial-1"
    leftover.mkdir(parents=True)
    checkpoint.save(tmp_path, make(5))
    assert checkpoint.steps(tmp_path) == [5]
    checkpoint.prune(tmp_path, 1)
    assert not leftover.exists()


def test_the_latest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        checkpoint.save(tmp_path, make(step))
        if step == 1:
            (tmp_path / "best").write_text("1\n")
        checkpoint.prune(tmp_path, 2)
    assert checkpoint.steps(tmp_path) == [1, 3, 4]


def test_writing_a_step_again_replaces_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, make(5))
    other = make(6)
    checkpoint.save(tmp_path, Checkpoint(5, other.model, None, other.optimizer, {}))
    assert torch.equal(checkpoint.load(tmp_path / "step_5").model["weight"], other.model["weight"])
    assert checkpoint.load_weights(tmp_path / "step_5").keys() == other.model.keys()


def test_averaged_weights_are_preferred(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, make(5))
    assert torch.equal(checkpoint.load_weights(folder)["weight"], make(5).ema["weight"])
    assert torch.equal(checkpoint.load_weights(folder, averaged=False)["weight"], make(5).model["weight"])


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_a_full_disk_leaves_the_checkpoints_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    checkpoint.save(tmp_path, make(5))

    def no_space(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, no_space)
        with pytest.raises(MatscaleError, match=r"No space left.*--resume"):
            checkpoint.save(tmp_path, make(10))
    assert checkpoint.load_latest(tmp_path).step == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "step_5"]
