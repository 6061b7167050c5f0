"""Every registered architecture computes in half precision: what `--precision bf16` and `fp16` ask of it."""

from __future__ import annotations

import pytest
import torch

from matscale.core.architecture import Architecture
from matscale.core.contract.structures import crystal, metal, slab
from matscale.core.contract.subject import Subject
from matscale.core.manager import host


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", host().architectures(), ids=lambda a: a.name)
def test_every_architecture_trains_in_half_precision(architecture: Architecture, precision: torch.dtype) -> None:
    subject = Subject(architecture, architecture.ladder(10_000))
    potential, batch = subject.perturbed().float(), subject.batch(crystal(), metal(), slab(), dtype=torch.float32)
    exact = potential(batch)
    with torch.autocast("cpu", precision):
        rough = potential(batch)
        trained = potential.train()(batch)
    assert rough.energy.dtype == torch.float64
    # EquiformerV2 is off by a quarter: its rotations to the frames of the edges are half precision too.
    assert (rough.forces - exact.forces).norm() < 0.5 * exact.forces.norm()
    (trained.energy.sum() + trained.forces.square().sum() + trained.stress.square().sum()).backward()
    gradients = [p.grad for p in potential.parameters() if p.grad is not None]
    assert any(gradient.any() for gradient in gradients)
    if (architecture.name, precision) != ("eqv2", torch.float16):  # the trainer then says that a gradient is not finite
        assert all(gradient.isfinite().all() for gradient in gradients)
