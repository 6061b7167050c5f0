"""Check forces and stress of gradient models against finite differences of the energy, independently of autograd.

Central differences, edges held fixed: f' = (f(h) − f(−h)) / 2h. The step is short, because a neighbour that crosses the
cutoff within the step adds an error of first order in h: second derivatives may jump there even in a smooth model. In
float64, nine digits remain.
"""

from __future__ import annotations

import torch
from torch import Tensor

from matscale.core.contract.check import register
from matscale.core.contract.structures import crystal, metal, molecule, slab
from matscale.core.contract.subject import Subject, require, require_equal
from matscale.core.data.batch import AtomicBatch

STEP = 1e-5
"""Step h, in Å for positions, dimensionless for strain."""
STENCIL = {-1: -0.5, 1: 0.5}
"""Weights of the finite difference, by displacement in units of the step."""


def _only_gradient_models(subject: Subject) -> str | None:
    return None if subject.derives else "predicts forces directly"


@register("forces-are-gradients", _only_gradient_models)
def forces_are_gradients(subject: Subject) -> None:
    """Forces are minus the derivative of the energy, in eV/Å."""
    for structure in (crystal(), slab(), molecule()):
        batch = subject.batch(structure)
        forces = subject.evaluate(batch).forces
        assert forces is not None
        directions = torch.randn(6, batch.n_atoms, 3, dtype=torch.float64)
        slopes = _slopes(subject, [_displaced(batch, k * STEP * u) for u in directions for k in STENCIL])
        along = torch.einsum("kna,na->k", directions, forces)
        require_equal(along, -slopes, 1e-5, f"forces on {structure.formula} along random displacements")


@register("stress-is-a-gradient", _only_gradient_models)
def stress_is_a_gradient(subject: Subject) -> None:
    """Stress is +(1/V) dE/dε, in eV/Å³, and symmetric."""
    for structure in (crystal(), metal(), slab()):
        batch = subject.batch(structure)
        stress = subject.evaluate(batch).stress
        if stress is None:
            return
        require_equal(stress, stress.transpose(1, 2), 1e-9, f"stress of {structure.formula} against its transpose")
        pairs = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
        slopes = _slopes(subject, [_deformed(batch, k * STEP, a, b) for a, b in pairs for k in STENCIL])
        found = torch.stack([stress[0, a, b] for a, b in pairs])
        require_equal(found, slopes / batch.volume(), 1e-5, f"stress of {structure.formula} (xx yy zz yz xz xy)")


def _displaced(batch: AtomicBatch, by: Tensor) -> AtomicBatch:
    return batch.with_geometry(batch.positions + by, batch.cell)


def _deformed(batch: AtomicBatch, h: float, a: int, b: int) -> AtomicBatch:
    """Deform a batch by the strain ε with ε_ab = ε_ba = h / 2 (or ε_aa = h), independently of `core.model.outputs`."""
    deformation = torch.eye(3, dtype=torch.float64)
    deformation[a, b] += 0.5 * h
    deformation[b, a] += 0.5 * h
    return batch.with_geometry(batch.positions @ deformation, batch.cell @ deformation)


def _slopes(subject: Subject, members: list[AtomicBatch]) -> Tensor:
    """Slopes dE/dh [n_slopes] at h = 0.

    `members` are displaced structures: for each slope in turn, one for each displacement in `STENCIL`.

    All energies are predicted in one forward pass.
    """
    energies = subject.evaluate(AtomicBatch.join(members)).energy.double()
    require(energies.isfinite().all(), "energies of displaced atoms are not finite.")
    weights = torch.tensor(list(STENCIL.values()), dtype=torch.float64)
    return torch.unflatten(energies, 0, (-1, len(STENCIL))) @ weights / STEP
