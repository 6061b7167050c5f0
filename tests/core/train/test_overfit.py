"""Every architecture can learn a few structures by heart: the whole chain from data to weights works for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from matscale.core.data.store.packed import PackedDataset
from matscale.core.hosting.host import host
from matscale.core.runs.config import TrainConfig
from matscale.core.train.session import train
from matscale.core.train.setup import resolved

SHORT = {"schnet": 60, "eqv2": 70, "gemnet": 60}
"""Steps of those that learn at a high rate, which end far beyond what is asked of them."""
OTHERS = {"fcn": 400, "escaip": 100, "esen": 30, "eqv3": 30}
"""Fewer where a step is dear, more where it is cheap and moves little; 200 for those that are not here."""

DEAR = ("esen", "eqv3")
"""Those of which a step takes so long that `long` tests have it; the tests of their plugins have a smaller one."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(a.name, marks=[pytest.mark.long] if a.name in DEAR else []) for a in host().architectures()],
)
def test_overfitting_drives_the_training_loss_towards_zero(name: str, alloys: PackedDataset, tmp_path: Path) -> None:
    architecture, steps = host().architecture(name), SHORT.get(name) or OTHERS.get(name, 200)
    config = TrainConfig.parse(
        {
            "architecture": {"name": name},
            "data": {"path": str(alloys.path), "validation": 0.25, "overfit": 8, "cache_graphs": False},
            "batch": {"structures": 8},
            "optimizer": {"lr": 1.5e-2 if name in SHORT else 5e-3},
            "budget": {"steps": steps},
            "evaluation": {"every": steps},
            "compute": {"device": "cpu"},
            "log_every": 1,
        }
    )
    run = train(resolved(config, architecture, n_params=10_000), tmp_path / "run", architecture=architecture)
    losses = [row["loss"] for row in run.metrics("train")]
    assert losses[-1] < 0.25 * losses[0]
    assert run.info["last"]["forces_cos"] > 0.9
