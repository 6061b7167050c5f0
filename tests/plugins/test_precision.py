"""Every registered architecture computes in half precision: what `--precision bf16` and `fp16` ask of it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from matscale.core.architecture import Architecture
from matscale.core.contract.structures import crystal, metal, slab
from matscale.core.contract.subject import Subject
from matscale.core.manager import host
from matscale.core.outputs import Outputs
from matscale.core.potential import Potential

ROUNDING = {torch.bfloat16: 0.1, torch.float16: 0.01}
"""Largest error of forces and gradients by the arithmetic, over their norm: some 20 roundings of 2⁻⁸ and of 2⁻¹¹."""


@dataclass(frozen=True)
class Step:
    """What a potential predicts, and the gradient of a loss of it."""

    outputs: Outputs
    gradient: torch.Tensor


def _step(potential: Potential, batch, precision: torch.dtype | None) -> Step:
    potential.zero_grad()
    with torch.autocast("cpu", precision, enabled=precision is not None):
        outputs = potential(batch)
    (outputs.energy.sum() + outputs.forces.square().sum() + outputs.stress.square().sum()).backward()
    return Step(outputs.detach(), torch.cat([p.grad.flatten() for p in potential.parameters() if p.grad is not None]))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", host().architectures(), ids=lambda a: a.name)
def test_every_architecture_trains_in_half_precision(architecture: Architecture, precision: torch.dtype) -> None:
    subject = Subject(architecture, architecture.ladder(10_000))
    potential, batch = subject.perturbed().float(), subject.batch(crystal(), metal(), slab(), dtype=torch.float32)
    potential.train().model.eval()  # keeps the graph of derived forces, and drops nothing out
    exact, rough = (_step(potential, batch, arithmetic) for arithmetic in (None, precision))
    assert rough.outputs.energy.dtype == torch.float64
    assert rough.outputs.forces.dtype == rough.outputs.stress.dtype == torch.float32
    for found, expected in ((rough.outputs.forces, exact.outputs.forces), (rough.gradient, exact.gradient)):
        assert 0 < (found - expected).norm() < ROUNDING[precision] * expected.norm()
    potential.model.train()
    assert _step(potential, batch, precision).gradient.isfinite().all()
