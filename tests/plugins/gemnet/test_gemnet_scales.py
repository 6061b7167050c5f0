"""Scale factors: measured before the first step, kept in the checkpoint, left alone where they are given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from matscale.core.data.neighbors import collate
from matscale.core.data.store.packed import PackedDataset
from matscale.core.runs import checkpoint
from matscale.core.runs.config import TrainConfig
from matscale.core.train.session import train
from matscale.plugins.gemnet import GemNet, graph
from matscale.plugins.gemnet.layers import Scale


def factors(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: buffer for name, buffer in model.named_buffers() if name.endswith("factor")}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Variance of each scaled result over that of its reference, in the order of a forward."""
    ratios: list[float] = []
    forward, product = Scale.forward, Scale.product

    def noted(y: Tensor, reference: Tensor) -> Tensor:
        ratios.append(float((y.var(0).mean() / reference.var(0).mean()).detach()))
        return y

    monkeypatch.setattr(Scale, "forward", lambda self, x, reference: noted(forward(self, x, reference), reference))
    monkeypatch.setattr(Scale, "product", lambda self, x, *basis: noted(product(self, x, *basis), x))
    return ratios


def test_measured_factors_keep_the_variance_of_every_sum_and_product(small_oc, batch, watched) -> None:
    torch.manual_seed(0)
    config = small_oc()
    model, data = GemNet(config).double(), batch(config)
    model(data)
    before = list(watched)
    assert max(abs(ratio - 1) for ratio in before) > 0.5
    model.prepare(data.split())
    watched.clear()
    model(data)
    assert len(watched) == len(factors(model)) == 28
    assert max(abs(ratio - 1) for ratio in watched) < 1e-5


def test_given_factors_stay_as_they_are(small, batch) -> None:
    config = small()
    model = GemNet(config).double()
    given = model.blocks[0].triplet.scale
    given.factor.fill_(1.7)
    model.prepare([batch(config)])
    assert given.factor == 1.7
    assert all(factor > 0 for factor in factors(model).values())


def test_a_factor_that_nothing_passes_is_left_for_later_and_does_nothing(small) -> None:
    from matscale.core.contract.structures import atom

    config = small()
    model = GemNet(config).double().eval()
    alone = collate([atom(), atom()], graph(config), torch.float64)
    expected = model(alone).energy
    model.prepare([alone])
    assert all(factor == 0 for factor in factors(model).values())
    assert torch.equal(model(alone).energy, expected)


def test_a_run_measures_its_factors_and_keeps_them_in_its_checkpoint(alloys: PackedDataset, tmp_path: Path) -> None:
    narrow = {"n_layers": 1, "atom_channels": 6, "edge_channels": 6, "n_radial": 8, "cutoff": 4.0}
    values = {
        "architecture": {"name": "gemnet", "config": narrow},
        "data": {"path": str(alloys.path), "validation": 0.25},
        "batch": {"structures": 6},
        "budget": {"steps": 2},
        "compute": {"device": "cpu"},
    }
    run = train(TrainConfig.parse(values), tmp_path / "run")
    saved = checkpoint.load_weights(checkpoint.folder_of(run.checkpoint_folder, run.last))
    found = {name: value for name, value in saved.items() if name.endswith("factor")}
    assert len(found) == 3 + 2 * 2
    assert all(0.01 < value < 100 for value in found.values())
    assert len({float(value) for value in found.values()}) == len(found)
