"""What of EquiformerV2 half precision rounds, and what it leaves alone."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from e3nn import o3
from torch import Tensor

from matscale.cli import main
from matscale.core.data.store.packed import PackedDataset
from matscale.core.model.outputs import model_outputs
from matscale.core.model.sphere.edges import Edges

FORMS = [
    {},
    {"stress_head": "rank2"},
    {"forces": "gradient", "max_neighbors": 0, "cutoff": 4.0, "lmax": 3},
    {"grid": "lebedev", "norm": "rms_norm_sh"},
]


def _outputs(model, data, half: torch.dtype | None):
    with torch.autocast("cpu", half, enabled=half is not None):
        return model_outputs(model, data, derive=model.config.forces == "gradient", create_graph=True)


@pytest.mark.parametrize(("half", "bound"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
@pytest.mark.parametrize("options", FORMS, ids=lambda o: "-".join(map(str, o.values())))
def test_every_form_predicts_and_learns_alike_in_half_precision(
    make_model, oxide, batch_of, options: dict, half: torch.dtype, bound: float
) -> None:
    model = make_model(**options).float()
    data = batch_of(model, oxide).to(dtype=torch.float32)
    gradients = []
    for arithmetic in (None, half):
        outputs = _outputs(model, data, arithmetic)
        model.zero_grad()
        (outputs.energy.sum() + outputs.forces.square().sum() + outputs.stress.square().sum()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    exact, rough = _outputs(model, data, None), _outputs(model, data, half)
    for name in ("forces", "stress"):  # an energy may be next to nothing by cancellation
        a, b = getattr(exact, name).detach(), getattr(rough, name).detach()
        assert (b - a).norm() < bound * a.norm()
    assert (gradients[1] - gradients[0]).norm() < bound * gradients[0].norm()


def test_the_geometry_of_the_edges_is_not_rounded(make_model, oxide, batch_of) -> None:
    model = make_model(max_neighbors=0).float()
    data = batch_of(model, oxide).to(dtype=torch.float32)
    exact = model.edge_frames(data)
    with torch.autocast("cpu", torch.bfloat16):
        edges: Edges = model.edge_frames(data)
    for field in fields(edges):
        value = getattr(edges, field.name)
        assert not isinstance(value, Tensor) or torch.equal(value, getattr(exact, field.name))


def test_a_turned_structure_gets_turned_forces_to_the_rounding_of_half_precision(make_model, oxide, batch_of) -> None:
    model = make_model(grid_resolution=32).float()
    turn = o3.rand_matrix(dtype=torch.float64)
    turned = replace(oxide, positions=oxide.positions @ turn.numpy().T, cell=oxide.cell @ turn.numpy().T)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        still, moved = (model(batch_of(model, s).to(dtype=torch.float32)) for s in (oxide, turned))
    expected = still.forces.double() @ turn.T
    assert (moved.forces - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_a_long_sum_and_a_softmax_of_large_logits_stay_finite_and_exact(make_model, oxide, batch_of, half) -> None:
    model = make_model().float()
    edges = model.edge_frames(batch_of(model, oxide).to(dtype=torch.float32))
    logits = 30 * torch.randn(len(edges.target), 2).to(half)
    with torch.autocast("cpu", half):
        weights = edges.softmax(logits)
        total = edges.sum_on_targets(weights.to(half))
    assert torch.equal(weights, edges.softmax(logits.float()))
    assert total.dtype == torch.float32
    assert (total - 1).abs().max() < 0.01


@pytest.mark.long
def test_training_in_half_precision_learns_as_in_full(alloys: PackedDataset, tmp_path: Path) -> None:
    options = {"lmax": 2, "grid_resolution": 10, "n_layers": 1, "n_radial": 32, "cutoff": 5.0, "drop_path": 0.0}
    options |= dict.fromkeys(["channels", "edge_channels", "attention_hidden", "alpha_channels", "ffn_hidden"], 8)
    shown = [part for key, value in options.items() for part in ("--set", f"architecture.config.{key}={value}")]
    fixed = ["--arch", "eqv2", "--data", alloys.path, "--steps", 20, "--batch", 6, "-q", "--device", "cpu", *shown]
    fixed += ["--lr", 3e-3, "--set", "optimizer.ema=0", "--set", "evaluation.every=1000"]
    losses = {}
    for precision in ("fp32", "bf16", "fp16"):
        run = tmp_path / precision
        done = CliRunner().invoke(main, [str(a) for a in ("train", *fixed, "-o", run, "--precision", precision)])
        assert done.exit_code == 0, done.output
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses[precision] = rows[-1]["loss"]
        first = rows[0]["loss"]
    assert losses["fp32"] < 0.8 * first
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["fp16"] < 0.9 * first  # its first steps overflow and are left out
