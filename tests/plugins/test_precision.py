"""Every registered architecture computes in reduced precision: what `--precision bf16`, `fp16` and `tf32` ask of it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from matscale.core.contract.structures import crystal, metal, molecule, slab, structure
from matscale.core.contract.subject import Subject
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.structure import Structure
from matscale.core.hosting.host import host
from matscale.core.model.architecture import Architecture
from matscale.core.model.outputs import Outputs, strained
from matscale.core.model.potential import Potential
from rounding import tf32
from rungs import rung

FORCES = {"bf16": 0.03, "fp16": 0.005, "tf32": 0.005}
"""Largest error of forces by the arithmetic, over their norm: some roundings of 2⁻⁸, 2⁻¹¹ and 2⁻¹¹."""
WIDER = {("eqv2", "bf16"): 0.05, ("esen", "bf16"): 0.05}
"""Of architectures that round more of their features."""
GRADIENT = {"bf16": 0.1, "fp16": 0.01, "tf32": 0.01}
"""The same of the gradient of a loss."""
WIDER_GRADIENT = {("eqv3", "tf32"): 0.02}
"""EquiformerV3 multiplies rounded features by one another in every block: 0.014 was measured."""


def in_a_large_cell() -> Structure:
    """A molecule around a corner of a skewed cell of 45 Å: edges go from one end of the cell to the other."""
    cell = np.array([[41.3, 0.2, -3.1], [5.1, 43.7, 0.3], [-4.6, 6.9, 47.1]])
    fractional = (molecule().positions @ np.linalg.inv(cell)) % 1.0
    return structure(molecule().atomic_numbers, fractional @ cell, cell)


def arithmetic(precision: str | None) -> AbstractContextManager[object]:
    if precision is None:
        return nullcontext()
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast("cpu", half[precision]) if precision in half else tf32()


@dataclass(frozen=True)
class Step:
    """What a potential predicts, and the gradient of a loss of it."""

    outputs: Outputs
    gradient: torch.Tensor


def _step(potential: Potential, batch: AtomicBatch, precision: str | None) -> Step:
    potential.zero_grad()
    with arithmetic(precision):
        outputs = potential(batch)
    with arithmetic(precision) if precision == "tf32" else nullcontext():  # the mode of a whole process
        (outputs.energy.sum() + outputs.forces.square().sum() + outputs.stress.square().sum()).backward()
    return Step(outputs.detach(), torch.cat([p.grad.flatten() for p in potential.parameters() if p.grad is not None]))


@pytest.mark.parametrize("precision", FORCES)
@pytest.mark.parametrize("architecture", host().architectures(), ids=lambda a: a.name)
def test_every_architecture_trains_in_reduced_precision(architecture: Architecture, precision: str) -> None:
    subject = Subject(architecture, rung(architecture.name))
    potential = subject.perturbed().float()
    for structures in ((crystal(), metal(), slab()), (in_a_large_cell(),)):
        batch = subject.batch(*structures, dtype=torch.float32)
        potential.train().model.eval()  # keeps the graph of derived forces, and drops nothing out
        exact, rough = (_step(potential, batch, mode) for mode in (None, precision))
        assert rough.outputs.energy.dtype == torch.float64
        assert rough.outputs.forces.dtype == rough.outputs.stress.dtype == torch.float32
        which = architecture.name, precision
        bounds = WIDER.get(which, FORCES[precision]), WIDER_GRADIENT.get(which, GRADIENT[precision])
        pairs = (rough.outputs.forces, exact.outputs.forces), (rough.gradient, exact.gradient)
        for (found, expected), bound in zip(pairs, bounds):
            assert 0 < (found - expected).norm() < bound * expected.norm()
    potential.model.train()
    assert _step(potential, batch, precision).gradient.isfinite().all()


@pytest.mark.parametrize("precision", FORCES)
def test_no_precision_rounds_the_geometry_of_a_batch(precision: str) -> None:
    architecture = host().architecture("schnet")
    subject = Subject(architecture, rung(architecture.name))
    batch = subject.batch(in_a_large_cell(), crystal(), dtype=torch.float32)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    strain = 0.01 * torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(1))

    def geometry() -> list[torch.Tensor]:
        bent, turned = strained(batch, strain), batch.transformed(turn)
        stress = turned.transformed(turn.T).stress
        assert stress is not None
        return [
            batch.edge_vec(),
            batch.edge_distance(),
            batch.fractional(),
            bent.positions,
            bent.cell,
            bent.edge_vec(),
            turned.positions,
            turned.cell,
            stress,
        ]

    expected = geometry()
    with arithmetic(precision):
        for found, exact in zip(geometry(), expected):
            assert (found - exact).nan_to_num().abs().max() < 1e-6
    exact = subject.batch(in_a_large_cell(), crystal(), dtype=torch.float64).edge_vec()
    assert (expected[0] - exact).abs().max() < 1e-5
