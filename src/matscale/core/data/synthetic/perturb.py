"""Perturb a parent structure, as for OMat24 (arXiv:2410.12771): rattle, strain, run dynamics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import fs, kB
from numpy.random import Generator
from numpy.typing import NDArray

from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import neighbors
from matscale.core.data.synthetic.prototypes import radii
from matscale.core.errors import DataError

BLOWN_UP = 1000.0
"""Force component [eV/Å] at which dynamics count as blown up."""


def rattle(atoms: Atoms, temperature: float, spring: float, rng: Generator) -> Atoms:
    """Return a copy of a structure whose atoms are displaced as in an Einstein crystal at `temperature` [K].

    Each coordinate has the Boltzmann distribution for a spring constant of `spring` eV/Å²: its standard deviation is
    sqrt(k_B T / spring). The value for copper is close to 3 eV/Å² (0.09 Å at 300 K). The mean displacement is zero.
    """
    moved: Atoms = atoms.copy()
    displacement = rng.normal(scale=np.sqrt(kB * temperature / spring), size=(len(atoms), 3))
    moved.set_positions(atoms.get_positions() + displacement - displacement.mean(axis=0))
    return moved


def strain(atoms: Atoms, size: float, rng: Generator) -> Atoms:
    """Return a copy of a structure under a random symmetric strain.

    The six components of the strain have the standard deviation `size`; atoms move with the cell. A structure that is
    not periodic in all directions is not strained.
    """
    deformed: Atoms = atoms.copy()
    if not atoms.pbc.all():
        return deformed
    epsilon = rng.normal(scale=size, size=(3, 3))
    epsilon = np.tril(epsilon) + np.tril(epsilon, -1).T
    deformed.set_cell(atoms.cell.array @ (np.eye(3) + epsilon), scale_atoms=True)
    return deformed


def langevin(
    atoms: Atoms, calculator: Any, temperature: float, steps: int, every: int, rng: Generator
) -> Iterator[Atoms]:
    """Run `steps` steps of Langevin dynamics at `temperature` [K], and yield a frame after every `every` steps.

    The integrator is the BAOAB splitting (Leimkuhler & Matthews, doi:10.1093/amrx/abs010) with a friction of 0.02/fs.
    The time step is 4 fs, or less if an element lighter than aluminium is present: it scales with the square root of
    the lightest mass. Dynamics that blow up (a force beyond `BLOWN_UP`, or not finite) end early, with fewer frames.
    """
    moving = atoms.copy()
    moving.calc = calculator
    mass = moving.get_masses()[:, None]  # [n, 1] amu
    dt = 4 * fs * min(1.0, float(np.sqrt(mass.min() / 27)))
    thermal = np.sqrt(kB * temperature / mass)
    keep = np.exp(-0.02 / fs * dt)
    velocity = _at_rest(thermal * rng.normal(size=(len(atoms), 3)), mass)
    forces = moving.get_forces()
    for step in range(1, steps + 1):
        velocity += 0.5 * dt * forces / mass
        moving.positions += 0.5 * dt * velocity
        kick = _at_rest(thermal * rng.normal(size=velocity.shape), mass)
        velocity = keep * velocity + np.sqrt(1 - keep**2) * kick
        moving.positions += 0.5 * dt * velocity
        forces = moving.get_forces()
        if not np.abs(forces).max() < BLOWN_UP:  # NaN included
            return
        velocity += 0.5 * dt * forces / mass
        if step % every == 0:
            yield Atoms(moving.numbers, positions=moving.get_positions(), cell=moving.cell, pbc=moving.pbc)


def _at_rest(velocity: NDArray[np.float64], mass: NDArray[np.float64]) -> NDArray[np.float64]:
    drift: NDArray[np.float64] = (mass * velocity).sum(axis=0) / mass.sum()
    return velocity - drift


def overlaps(atoms: Atoms, closeness: float) -> bool:
    """Whether two atoms, images included, are nearer than `closeness` times the sum of their `radii`."""
    radius = closeness * radii(atoms.get_atomic_numbers())
    positions, cell = atoms.get_positions(), atoms.cell.array
    try:
        (j, i), shift = neighbors(positions, cell, atoms.pbc, Graph.radius(2 * float(radius.max())))
    except DataError:  # two atoms in one place, a cell without volume
        return True
    distance = np.linalg.norm(positions[j] - positions[i] + shift @ cell, axis=1)
    return bool((distance < radius[i] + radius[j]).any())
