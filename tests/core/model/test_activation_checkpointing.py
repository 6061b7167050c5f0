"""Activation checkpointing: the same numbers from less memory, and no FLOPs for what runs twice."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from matscale.core.data.batch import AtomicBatch
from matscale.core.errors import ConfigError
from matscale.core.estimate.live_bytes import activation_bytes
from matscale.core.flops import count_step
from matscale.core.hosting.host import host
from matscale.core.model.activation_checkpointing import checkpoint_activations
from matscale.core.model.architecture import DatasetInfo
from matscale.core.model.potential import Potential
from matscale.core.runs.config import TrainConfig
from matscale.core.train.session import train

EQV2 = {"channels": 4, "n_layers": 3, "lmax": 2, "edge_channels": 4, "grid_resolution": 8, "n_radial": 16}
SMOOTH = {**EQV2, "forces": "gradient", "max_neighbors": 0, "cutoff": 4.0}
EQV3 = {"channels": 4, "n_layers": 2, "lmax": 2, "edge_channels": 4, "ffn_hidden": 6, "n_radial": 8, "cutoff": 3.5}
GEMNET = {"n_layers": 2, "atom_channels": 6, "edge_channels": 8, "n_radial": 12, "n_atom": 1, "cutoff": 4.0}
PAIRS = {"quadruplets": True, "atom_edge": True, "edge_atom": True, "atom_atom": True, "cutoff_quadruplets": 3.2}
MODELS = {
    "eqv2": ("eqv2", {**EQV2, "alpha_drop": 0.3, "drop_path": 0.3, "proj_drop": 0.3, "max_neighbors": 6}),
    "eqv2 gradient": ("eqv2", {**SMOOTH, "drop_path": 0.3}),
    "esen": ("esen", {"channels": 4, "hidden": 4, "edge_channels": 4, "n_layers": 2, "lmax": 2, "cutoff": 3.5}),
    "eqv3": ("eqv3", {**EQV3, "attention_drop": 0.3, "drop_path": 0.3}),
    "gemnet": ("gemnet", {**GEMNET, **PAIRS}),
    "gemnet gradient": ("gemnet", {**GEMNET, "forces": "gradient"}),
    "schnet": ("schnet", {"hidden": 8, "n_layers": 2}),
    "transformer": ("transformer", {"width": 8, "n_heads": 2, "n_layers": 4, "dropout": 0.3}),
    "transformer-periodic": ("transformer-periodic", {"width": 8, "n_heads": 2, "n_layers": 4, "dropout": 0.3}),
}


def potential_of(name: str) -> Potential:
    architecture, options = MODELS[name]
    family = host().architecture(architecture)
    config = family.config.parse({k: v for k, v in options.items() if k in family.config.model_fields})
    return Potential.of(family, config, DatasetInfo.any(), seed=0).train()


def checkpointed(potential: Potential, name: str) -> Potential:
    changed = copy.deepcopy(potential)
    checkpoint_activations(changed.model, name)
    return changed


def batch_for(potential: Potential, alloys: Any) -> AtomicBatch:
    return alloys.batch(range(6), potential.graph)


def gradients(potential: Potential, batch: AtomicBatch) -> dict[str, Tensor]:
    torch.manual_seed(3)
    outputs = potential(batch)
    loss = outputs.energy.square().sum() + outputs.forces.square().sum() + outputs.stress.square().sum()
    loss.backward()
    return {n: p.grad for n, p in potential.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_the_same_bit_for_bit_with_dropout(alloys: Any, name: str) -> None:
    plain = potential_of(name)
    batch = batch_for(plain, alloys)
    frugal = checkpointed(plain, name)
    expected, found = gradients(plain, batch), gradients(frugal, batch)
    assert expected.keys() == found.keys()
    assert max(g.abs().max() for g in expected.values()) > 0
    for parameter, gradient in expected.items():
        assert torch.equal(found[parameter], gradient), parameter


@pytest.mark.parametrize("name", ["eqv2", "transformer"])
def test_a_step_needs_less_memory(alloys: Any, name: str) -> None:
    plain = potential_of(name)
    batch = alloys.batch(range(24), plain.graph)
    assert activation_bytes(checkpointed(plain, name), batch) < 0.8 * activation_bytes(plain, batch)


@pytest.mark.parametrize("name", MODELS)
def test_what_runs_twice_is_counted_once(alloys: Any, name: str) -> None:
    plain = potential_of(name)
    batch = batch_for(plain, alloys)
    assert count_step(checkpointed(plain, name), batch) == count_step(plain, batch) > 0


def test_weights_keep_their_names() -> None:
    plain = potential_of("eqv2")
    assert list(checkpointed(plain, "eqv2").state_dict()) == list(plain.state_dict())


def test_a_model_without_blocks_is_refused_by_name() -> None:
    family = host().architecture("fcn")
    model = family.model(family.ladder(3_000), DatasetInfo.any(), seed=0)
    with pytest.raises(ConfigError, match=r"'fcn' has no blocks .* batch\.atoms"):
        checkpoint_activations(model, "fcn")


def test_together_with_compile_it_is_refused() -> None:
    values = {"architecture": {"name": "eqv2"}, "compute": {"compile": True, "checkpoint_activations": True}}
    with pytest.raises(ConfigError, match="leave out checkpoint_activations"):
        TrainConfig.parse(values)


def test_a_run_with_it_is_the_run_without_it(alloys: Any, tmp_path: Path) -> None:
    rows = []
    for frugal in (False, True):
        config = {
            "architecture": {"name": "eqv2", "config": MODELS["eqv2"][1]},
            "data": {"path": str(alloys.path)},
            "budget": {"steps": 3},
            "log_every": 1,
            "compute": {"device": "cpu", "checkpoint_activations": frugal},
        }
        run = train(TrainConfig.parse(config), tmp_path / str(frugal))
        rows.append([(row["loss"], row["flops"]) for row in run.metrics()])
    assert len(rows[0]) == 5  # three steps and two validations
    assert rows[0] == rows[1]
