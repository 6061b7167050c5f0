"""Structures that are made from one parent, with labels.

They are a pure function of the recipe and the number of the parent.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from ase import Atoms
from numpy.random import Generator

from matscale.core.data.structure import Structure
from matscale.core.data.synthetic import perturb
from matscale.core.data.synthetic.labelers import Labeler, label
from matscale.core.data.synthetic.prototypes import parent
from matscale.core.data.synthetic.recipe import Recipe
from matscale.core.errors import DataError

ATTEMPTS = 50
FRAMES_PER_RUN = 3
STEPS_PER_FRAME = 10


def family(recipe: Recipe, labeler: Labeler, number: int, given: Structure | None = None) -> list[Structure]:
    """Make the labelled structures of parent number `number`.

    `given` is the parent if it comes from a file. All structures have the same group, so that a split keeps them
    together. The group is that of `given`. If the parent is made from a prototype, the group is named by prototype and
    reduced formula ("l12-AlNi3"), so that parents of the same alloy share a group. The last parent of a recipe may have
    fewer structures.
    """
    rng = np.random.default_rng([recipe.seed, number])
    calculator = labeler.calculator()
    draw = _Draw(recipe, calculator, rng)
    if given is not None:
        atoms, group, source = _bare(given), given.group, given.source
    else:
        source = recipe.prototypes[number % len(recipe.prototypes)]
        atoms = draw.parent(source)
        group = f"{source}-{Structure.from_ase(atoms).formula}"
    count = min(recipe.per_parent, recipe.n - number * recipe.per_parent)
    structures = draw.children(atoms, f"parent {number} ({source})")[:count]
    for structure in structures:
        structure.trajectory, structure.source = group, f"{source}: parent {number}"
    return structures


def _bare(structure: Structure) -> Atoms:
    return Atoms(structure.atomic_numbers, positions=structure.positions, cell=structure.cell, pbc=structure.pbc)


class _Draw:
    """Random draws of structures. Each draw is repeated until the structure is usable.

    A structure is unusable if atoms overlap, or if forces or stress exceed the limits of the recipe.
    """

    def __init__(self, recipe: Recipe, calculator: Any, rng: Generator) -> None:
        self.recipe, self.calculator, self.rng = recipe, calculator, rng

    def parent(self, prototype: str) -> Atoms:
        for _ in range(ATTEMPTS):
            atoms = parent(prototype, self.recipe.elements, self.recipe.max_atoms, self.rng)
            if prototype == "random" and not perturb.overlaps(atoms, self.recipe.closeness):
                atoms = self._relaxed(atoms)
            if self._labelled(atoms) is not None:
                return atoms
        raise DataError(
            f"{ATTEMPTS} parents of prototype {prototype!r} made of {', '.join(self.recipe.elements)} were unusable "
            "(atoms overlap, or forces or stress exceed the recipe's limits). Leave this prototype out, or raise "
            f"forces_max = {self.recipe.forces_max} eV/Å."
        )

    def _relaxed(self, atoms: Atoms) -> Atoms:
        from ase.optimize import FIRE  # start-up: scipy.optimize, for all that resolves the name of a dataset

        atoms.calc = self.calculator
        FIRE(atoms, logfile=None).run(fmax=1.0, steps=30)
        atoms.calc = None
        return atoms

    def children(self, atoms: Atoms, where: str) -> list[Structure]:
        """Make `per_parent` structures from a parent: first rattled, then strained, then from dynamics.

        A parent with a single atom is only strained. `where` names the parent in an error.
        """
        recipe = self.recipe
        total = recipe.per_parent
        still = not (len(atoms) > 1)
        n_dynamics = 0 if still else round(recipe.dynamics * total)
        n_strained = total if still else round(recipe.strained * total)
        n_rattled = total - n_dynamics - n_strained
        structures = [self._again(self._rattled, atoms, where) for _ in range(n_rattled)]
        structures += [self._again(self._strained, atoms, where) for _ in range(n_strained)]
        while len(structures) < total:
            wanted = min(FRAMES_PER_RUN, total - len(structures))
            structures += self._again(partial(self._run, wanted), atoms, where)
        return structures

    def _again(self, draw: Any, atoms: Atoms, where: str) -> Any:
        for _ in range(ATTEMPTS):
            drawn = draw(atoms)
            if drawn:
                return drawn
        raise DataError(
            f"{where}, {atoms.get_chemical_formula()}: {ATTEMPTS} structures drawn from it were unusable (atoms "
            f"overlap, or forces beyond {self.recipe.forces_max} eV/Å, or stress beyond {self.recipe.stress_max} "
            "eV/Å³). Lower the temperatures or the strain."
        )

    def _rattled(self, atoms: Atoms) -> Structure | None:
        temperature = float(self.rng.choice(self.recipe.rattle_temperatures))
        deformed = perturb.strain(atoms, self.recipe.strain, self.rng)
        return self._labelled(perturb.rattle(deformed, temperature, self.recipe.spring, self.rng))

    def _strained(self, atoms: Atoms) -> Structure | None:
        return self._labelled(perturb.strain(atoms, 2 * self.recipe.strain, self.rng))

    def _run(self, wanted: int, atoms: Atoms) -> list[Structure]:
        """Run short Langevin dynamics, and return at most `wanted` usable frames.

        The run starts from the parent, slightly strained and rattled.
        """
        temperature = float(self.rng.choice(self.recipe.dynamics_temperatures))
        start = perturb.strain(atoms, self.recipe.strain / 2, self.rng)
        # Half the thermal energy is potential energy, so the run starts with the displacements of an Einstein crystal.
        start = perturb.rattle(start, min(temperature, 1000.0), self.recipe.spring, self.rng)
        if perturb.overlaps(start, self.recipe.closeness):
            return []
        steps = STEPS_PER_FRAME * wanted
        frames = perturb.langevin(start, self.calculator, temperature, steps, STEPS_PER_FRAME, self.rng)
        return list(self._good(frames))

    def _good(self, frames: Iterator[Atoms]) -> Iterator[Structure]:
        for frame in frames:
            structure = self._labelled(frame)
            if structure is not None:
                yield structure

    def _labelled(self, atoms: Atoms) -> Structure | None:
        if perturb.overlaps(atoms, self.recipe.closeness):
            return None
        structure = label(atoms, self.calculator)
        limits = [(structure.forces, self.recipe.forces_max), (structure.stress, self.recipe.stress_max)]
        good = structure.energy is not None and np.isfinite(structure.energy)
        good = good and all(np.abs(values).max() < limit for values, limit in limits if values is not None)
        return structure if good else None
