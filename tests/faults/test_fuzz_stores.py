"""Packed datasets and checkpoints with changed files: what was written, or an error of matscale's."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pytest
import torch

from fuzzing import attack, n_inputs
from matscale.core.data.store.packed import PackedDataset, ShardWriter
from matscale.core.runs.checkpoint import Checkpoint, load_latest, save


@pytest.fixture
def dataset(structures, tmp_path):
    writer = ShardWriter(tmp_path / "sound")
    writer.append(*structures(6))
    writer.finish()
    return tmp_path / "sound"


@pytest.mark.parametrize("name", ["manifest.json", "shard-00000.safetensors"])
def test_packed_datasets(dataset, tmp_path, name):
    def use(content):
        shutil.rmtree(tmp_path / "changed", ignore_errors=True)
        shutil.copytree(dataset, tmp_path / "changed")
        (tmp_path / "changed" / name).write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = PackedDataset.open(tmp_path / "changed")
            opened.verify()
            return [opened[k] for k in range(len(opened))]

    attack([(dataset / name).read_bytes()], use, n_inputs(60, 0.01))


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
def test_checkpoints(tmp_path, name):
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}
    for step in (1, 2):
        save(
            tmp_path / "sound", Checkpoint(step, weights, None, {"a.weight.exp_avg": torch.ones(2, 3)}, {"step": step})
        )

    def use(content):
        shutil.rmtree(tmp_path / "changed", ignore_errors=True)
        shutil.copytree(tmp_path / "sound", tmp_path / "changed")
        (tmp_path / "changed" / "step_2" / name).write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = load_latest(tmp_path / "changed")
        assert found is not None
        assert np.array_equal(found.model["a.weight"], weights["a.weight"])

    attack([(tmp_path / "sound" / "step_2" / name).read_bytes()], use, n_inputs(40, 0.005))
