"""Check that energy and forces are continuous in the orientation: edge frames and grids may have discontinuities.

Frames that depend on the directions of edges cannot be continuous on the whole sphere. A model that is equivariant up
to the error of a grid jumps by that error where the choice of frame changes. To find jumps, a molecule is rotated so
that one of its edges passes the axes. Where the energy, or directly predicted forces, change least smoothly, the step
is halved until only a jump remains. All weights are three times as large as in other checks, since the errors of grids
grow with the weights by orders of magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from matscale.core.contract.check import claiming, register
from matscale.core.contract.structures import molecule
from matscale.core.contract.subject import ContractError, Subject, require
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.structure import Structure
from matscale.core.model.potential import Potential

FACTOR = 3.0
"""Factor on all weights for this check; 1 is used if energy or forces would not be finite."""
STEPS, LOOKED_INTO, HALVINGS = 360, 24, 33
"""Numbers of steps per half circle, of steps examined further (for energy and for forces), and of their halvings.

The last halving gives a step of 10⁻¹² rad.
"""
ENERGY_TOLERANCE, FORCES_TOLERANCE = 1e-9, 1e-8
"""Largest relative change over 10⁻¹² rad. Even steep continuous functions and rounding errors change by less."""


@register("smooth-in-direction", claiming("smooth"))
def smooth_in_direction(subject: Subject) -> None:
    """Energy and forces do not jump while a molecule rotates, whatever directions its edges pass."""
    turning = _Turning.of(subject)
    before, after = _shortest_steps(turning)
    (energy, forces), (next_energy, next_forces) = turning.outputs(before), turning.outputs(after)
    for name, a, b, limit in (
        ("energy", energy, next_energy, ENERGY_TOLERANCE),
        ("forces", forces, next_forces, FORCES_TOLERANCE),
    ):
        jump, size = (a - b).abs().max().item(), max(a.abs().max().item(), 1e-6)
        require(
            jump <= limit * size,
            f"rotating a molecule by 10⁻¹² rad changes {name} of up to {size:.3g} by {jump:.3g} (largest allowed "
            f"ratio: {limit:g}). Every quantity that depends on the direction of an edge, such as a frame, must be "
            "continuous.",
        )


def bent() -> Structure:
    """Three atoms not in line: the smallest structure without symmetry about an edge. One edge is along x."""
    whole = molecule()
    positions = np.array([[0, 0, 0], [1.6, 0, 0], [-0.5, 1.5, 0.3]])
    return replace(whole, atomic_numbers=whole.atomic_numbers[:3], positions=positions)


def _planes() -> Tensor:
    """Planes of rotation [n_planes, 3, 3]. The rows of a plane are two axes and the normal. Three are xy, yz and zx."""
    x, y, z = np.eye(3)
    any_way = [np.linalg.qr(m)[0].T for m in np.random.default_rng(0).standard_normal((2, 3, 3))]
    return torch.from_numpy(np.array([[x, y, z], [y, z, x], [z, x, y], *any_way]))


Places = tuple[Tensor, Tensor]
"""Orientations: (index of the plane of rotation, angle in this plane [rad]), each [n_orientations]."""
START: Places = (torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.float64))


@dataclass(frozen=True)
class _Turning:
    """Molecule rotated in several planes."""

    potential: Potential
    molecule: AtomicBatch
    planes: Tensor

    @classmethod
    def of(cls, subject: Subject) -> _Turning:
        """Set up the molecule and a potential with weights times `FACTOR`, or times 1 if outputs are not finite.

        Raises ContractError if outputs are not finite even then.
        """
        for factor in (FACTOR, 1.0):
            potential = subject.perturbed()
            with torch.no_grad():
                for parameter in potential.parameters():
                    parameter.mul_(factor)
            turning = cls(potential, subject.batch(bent()), _planes())
            if all(x.isfinite().all() for x in turning.outputs(START)):
                return turning
        raise ContractError("energy or forces of a molecule of three atoms are not finite.")

    def rotations(self, places: Places) -> Tensor:
        """Rotation matrices [n_orientations, 3, 3]."""
        plane, angle = places
        c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
        about = torch.unflatten(torch.stack([c, -s, zero, s, c, zero, zero, zero, one], dim=1), 1, (3, 3))
        return self.planes[plane].mT @ about

    def batch(self, places: Places) -> AtomicBatch:
        """Batch of rotated molecules, with the same edges."""
        n = len(places[0])
        positions = torch.einsum("nab,ib->nia", self.rotations(places), self.molecule.positions).flatten(0, 1)
        return AtomicBatch.join([self.molecule] * n).with_geometry(positions, self.molecule.cell.repeat(n, 1, 1))

    def predicted(self, places: Places) -> list[Tensor]:
        """Direct outputs of the model in axes that rotate with the molecule: energies, and forces if it predicts them.

        The shapes are [n_orientations, 1] and [n_orientations, 3·n_atoms]. Derived forces are not needed: they jump
        where the energy has a kink. Direct forces may also jump elsewhere.
        """
        with torch.no_grad():
            outputs = self.potential.model(self.batch(places)).detach()
        energies = outputs.energy.double()[:, None]
        if outputs.forces is None:
            return [energies]
        forces = outputs.forces.double().unflatten(0, (len(places[0]), -1))
        return [energies, (forces @ self.rotations(places)).flatten(1)]

    def outputs(self, places: Places) -> tuple[Tensor, Tensor]:
        """Energies [n_orientations, 1] and forces [n_orientations, n_atoms, 3]; the axes rotate with the molecule."""
        with torch.no_grad():
            outputs = self.potential(self.batch(places))
        assert outputs.forces is not None
        forces = outputs.forces.detach().double().unflatten(0, (len(places[0]), -1))
        return outputs.energy.detach().double()[:, None], forces @ self.rotations(places)

    def values(self, places: Places) -> Tensor:
        """Energy and forces [n_orientations, 1 + 3·n_atoms], each divided by its magnitude at the start."""
        return torch.cat([(part / size).flatten(1) for part, size in zip(self.outputs(places), self.sizes)], dim=1)

    @cached_property
    def sizes(self) -> list[Tensor]:
        """Magnitudes of energy and forces at the start."""
        return [part.abs().max().clamp(min=1e-6) for part in self.outputs(START)]


def _where_it_bends(turning: _Turning) -> tuple[Places, float]:
    """Find the steps in which outputs are least smooth: returns their starts, and the length [rad] of a step."""
    n, step = len(turning.planes), torch.pi / STEPS
    angles = 0.01 + step * torch.arange(-1, STEPS + 2, dtype=torch.float64)
    paths = [turning.predicted((torch.full((len(angles),), k), angles)) for k in range(n)]
    chosen = torch.cat([_most_bent(torch.stack(values)) for values in zip(*paths)]).unique()
    return (chosen // STEPS, angles[chosen % STEPS + 1]), step


def _most_bent(values: Tensor) -> Tensor:
    """Indices of the steps with the largest third differences of `values` [n_planes, n_angles, n_values]."""
    # A jump enters with a factor of two, a smooth function with the cube of the step.
    bends = values.diff(n=3, dim=1).abs().amax(2)
    return bends.flatten().topk(LOOKED_INTO).indices


def _shortest_steps(turning: _Turning) -> tuple[Places, Places]:
    """Halve steps repeatedly, keeping the half in which energy or forces change less smoothly.

    Returns both ends of the shortest steps.
    """
    (plane, low), step = _where_it_bends(turning)
    at_low, at_middle, at_high = (turning.values((plane, low + step * k)) for k in (0.0, 0.5, 1.0))
    for _ in range(HALVINGS):
        step = step / 2
        at_lower, at_upper = (turning.values((plane, low + step * k)) for k in (0.5, 1.5))
        lower_bend, upper_bend = at_low - 2 * at_lower + at_middle, at_middle - 2 * at_upper + at_high
        is_lower = (lower_bend.abs().amax(1) > upper_bend.abs().amax(1))[:, None]
        low = torch.where(is_lower[:, 0], low, low + step)
        at_low, at_high = torch.where(is_lower, at_low, at_middle), torch.where(is_lower, at_middle, at_high)
        at_middle = torch.where(is_lower, at_lower, at_upper)
    return (plane, low), (plane, low + step)
