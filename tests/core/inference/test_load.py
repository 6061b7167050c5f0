"""A run comes back as the potential that was saved: the right checkpoint, the right weights, or an error that helps."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

import matscale
from matscale.core.data.neighbors import collate
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError, MatscaleError, PluginError
from matscale.core.runs import checkpoint
from matscale.core.runs.record import Run

TINY = {"hidden": 8, "filters": 8, "n_radial": 8, "n_layers": 1, "cutoff": 4.0}
MakeRun = Callable[..., Run]


def test_loading_a_run_gives_the_weights_that_were_saved(make_run: MakeRun) -> None:
    run = make_run("schnet", **TINY)
    potential = matscale.load(run.path)
    saved = checkpoint.load(checkpoint.folder_of(run.checkpoint_folder, 1)).model
    assert potential.state_dict().keys() == saved.keys()
    for name, value in potential.state_dict().items():
        assert torch.equal(value, saved[name]), name
    assert not potential.training
    assert potential.graph.cutoff == 4.0


def test_averaged_weights_are_preferred(make_run: MakeRun) -> None:
    run = make_run("schnet", ema=True, **TINY)
    averaged = checkpoint.load(checkpoint.folder_of(run.checkpoint_folder, 1)).ema
    assert averaged is not None
    for name, value in matscale.load(run).state_dict().items():
        assert torch.equal(value, averaged[name]), name


def test_a_checkpoint_is_chosen_by_name_or_step(make_run: MakeRun) -> None:
    run = make_run("schnet", steps=(1, 2, 3), **TINY)
    (run.checkpoint_folder / "best").write_text("2\n")
    weights = {c: matscale.load(run, c).state_dict() for c in ("best", "last", 1, "2", 3)}
    name = "model.embedding.weight"
    assert torch.equal(weights["best"][name], weights["2"][name])
    assert torch.equal(weights["last"][name], weights[3][name])
    assert not torch.equal(weights["best"][name], weights["last"][name])
    assert not torch.equal(weights[1][name], weights["last"][name])


def test_the_last_checkpoint_serves_before_the_first_validation(make_run: MakeRun) -> None:
    run = make_run("schnet", steps=(1, 2), **TINY)
    assert run.best is None
    name = "model.embedding.weight"
    assert torch.equal(matscale.load(run).state_dict()[name], matscale.load(run, 2).state_dict()[name])


@pytest.mark.parametrize("wrong", ["bset", 7, "-1"])
def test_a_checkpoint_that_does_not_exist_is_answered_with_those_that_do(make_run: MakeRun, wrong: str | int) -> None:
    with pytest.raises(ConfigError, match="Known: best, last, 1, 2"):
        matscale.load(make_run("schnet", steps=(1, 2), **TINY), wrong)


def test_a_run_without_a_checkpoint_says_so(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="has no checkpoint"):
        matscale.load(make_run("schnet", steps=(), **TINY))


def test_a_damaged_checkpoint_is_refused_and_the_others_are_named(make_run: MakeRun) -> None:
    run = make_run("schnet", steps=(1, 2), **TINY)
    file = checkpoint.folder_of(run.checkpoint_folder, 2) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(MatscaleError, match=r"SHA-256 differs.*another checkpoint: 1\."):
        matscale.load(run)
    matscale.load(run, 1)


def test_a_missing_plugin_is_named_with_what_to_install(make_run: MakeRun) -> None:
    run = make_run("schnet", **TINY)
    config = run.path / "config.toml"
    config.write_text(config.read_text().replace('name = "schnet"', 'name = "sparkling"'))
    info = json.loads((run.path / "run.json").read_text())
    info["architecture"] = {"name": "sparkling", "distribution": "matscale-sparkling", "version": "0.3.1"}
    (run.path / "run.json").write_text(json.dumps(info))
    with pytest.raises(PluginError, match=r"'sparkling'.*pip install matscale-sparkling==0\.3\.1"):
        matscale.load(run.path)


def test_weights_of_another_shape_are_refused_with_the_version_that_fits(make_run: MakeRun) -> None:
    run = make_run("schnet", **TINY)
    config = run.path / "config.toml"
    config.write_text(config.read_text().replace("hidden = 8", "hidden = 9"))
    with pytest.raises(PluginError, match="do not fit the architecture 'schnet'"):
        matscale.load(run.path)


def test_double_precision_keeps_references_and_agrees_with_single(make_run: MakeRun, alloys: PackedDataset) -> None:
    run = make_run("schnet", **TINY)
    single, double = matscale.load(run), matscale.load(run, dtype="float64")
    assert torch.equal(single.references, double.references)
    graph = double.graph
    narrow = single(collate([alloys[0]], graph, dtype=torch.float32))
    wide = double(collate([alloys[0]], graph, dtype=torch.float64))
    assert wide.forces is not None
    assert wide.forces.dtype == torch.float64
    assert_close(narrow.energy, wide.energy, rtol=1e-5, atol=1e-5)


def test_a_run_in_double_precision_stays_so(make_run: MakeRun) -> None:
    run = make_run("schnet", **TINY)
    folder = checkpoint.folder_of(run.checkpoint_folder, 1)
    saved = checkpoint.load(folder)
    wide = {k: v.double() + 1e-12 if k.startswith("model.") else v for k, v in saved.model.items()}
    checkpoint.save(run.checkpoint_folder, checkpoint.Checkpoint(1, wide, None, {}, {}))
    name = "model.embedding.weight"
    assert torch.equal(matscale.load(run).state_dict()[name], wide[name])
    assert matscale.load(run, dtype="float32").state_dict()[name].dtype == torch.float32


def test_an_unknown_precision_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="float32, float64"):
        matscale.load(make_run("schnet", **TINY), dtype="float16")


@pytest.mark.parametrize("device", ["cdua", "cuda:99", "meta"])
def test_a_device_that_does_not_exist_is_refused(make_run: MakeRun, device: str) -> None:
    with pytest.raises(ConfigError, match=f"device = '{device}'"):
        matscale.load(make_run("schnet", **TINY), device=device)
