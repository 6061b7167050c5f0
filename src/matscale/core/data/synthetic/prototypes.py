"""Parent structures of any elements: fcc, bcc and hcp alloys, ordered L1₂ and L1₀ alloys, and random cells.

A parent is a supercell with randomly drawn lattice vectors and elements. Its volume follows Vegard's rule: the radius
of an atom is the mean of the radii in the crystals of the elements. All random numbers come from the generator that is
passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.data import atomic_numbers, covalent_radii, reference_states
from numpy.random import Generator
from numpy.typing import NDArray

from matscale.core.errors import ConfigError, did_you_mean

MAX_SPECIES = 4
"""Largest number of elements in one parent."""

_HCP = ((1.0, 0.0, 0.0), (-0.5, np.sqrt(0.75), 0.0), (0.0, 0.0, np.sqrt(8 / 3)))
_FCC = ((0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0))
_BCC = ((-0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.5, 0.5, -0.5))
_CUBE = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
# The tetragonal cell of half the fcc cube, with two atoms.
_TETRAGONAL = ((0.5, 0.5, 0.0), (-0.5, 0.5, 0.0), (0.0, 0.0, 1.0))
_MIDDLE = (0.5, 0.5, 0.5)
# The cell itself and its 26 neighbours.
_IMAGES = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3), axis=-1).reshape(27, 3)

# Name -> (cell, fractional coordinates, index of the species on each site; None: random for each site).
_LATTICES: dict[str, tuple[Any, Any, tuple[int, ...] | None]] = {
    "fcc": (_FCC, ((0, 0, 0),), None),
    "bcc": (_BCC, ((0, 0, 0),), None),
    "hcp": (_HCP, ((0, 0, 0), (1 / 3, 2 / 3, 0.5)), None),
    "l12": (_CUBE, ((0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)), (0, 1, 1, 1)),
    "l10": (_TETRAGONAL, ((0, 0, 0), _MIDDLE), (0, 1)),
}
PROTOTYPES = (*_LATTICES, "random")
"""Names of the prototypes (kinds of parents) that a recipe may list."""


def check(prototypes: Sequence[str], elements: Sequence[str]) -> None:
    """Raises ConfigError for an unknown prototype, or for an ordered alloy with fewer than two elements."""
    for name in prototypes:
        if name not in PROTOTYPES:
            raise ConfigError(f"There is no prototype {name!r}. {did_you_mean(name, PROTOTYPES)}")
        if name in ("l12", "l10") and len(set(elements)) < 2:
            raise ConfigError(
                f"The prototype {name!r} orders two elements, but there is only {', '.join(elements)}. "
                "Give more elements, or other prototypes (--prototypes fcc,hcp,bcc)."
            )


def parent(name: str, elements: Sequence[str], max_atoms: int, rng: Generator) -> Atoms:
    """Make a parent structure of the prototype `name`.

    It has at most `max_atoms` atoms, but at least one unit cell.
    """
    if name == "random":
        return random_cell(elements, max_atoms, rng)
    cell, sites, species = _LATTICES[name]
    copies = int(rng.integers(1, max(1, max_atoms // len(sites)) + 1))
    numbers = np.arange(len(sites)) if species is None else np.array(species)
    lattice = Atoms(numbers=numbers + 1, scaled_positions=sites, cell=cell, pbc=True)  # numbers are labels as yet
    atoms = make_supercell(lattice, _compact(copies, lattice.cell.array, rng), wrap=True)
    chosen = _species(elements, len(atoms), rng) if species is None else rng.permutation(len(elements))[:2]
    z = np.array([atomic_numbers[symbol] for symbol in elements])[chosen]
    atoms.set_atomic_numbers(z if species is None else z[atoms.get_atomic_numbers() - 1])
    return _scaled(atoms, volume(atoms.get_atomic_numbers()))


def hermite(determinant: int, rng: Generator) -> NDArray[np.int64]:
    """Draw the matrix of a random supercell of `determinant` unit cells: 3×3 integers in Hermite normal form.

    The diagonal is drawn from all factorisations of `determinant`, then the entries below it are drawn. Every
    superlattice can occur.
    """
    divisors = [d for d in range(1, determinant + 1) if determinant % d == 0]
    diagonals = [(a, b, determinant // (a * b)) for a in divisors for b in divisors if determinant % (a * b) == 0]
    a, b, c = diagonals[rng.integers(len(diagonals))]
    below = rng.integers(0, (b, c, c))
    return np.array([[a, 0, 0], [below[0], b, 0], [below[1], below[2], c]])


def _compact(copies: int, cell: NDArray[np.float64], rng: Generator) -> NDArray[np.int64]:
    """Draw a random supercell of `copies` unit cells that is compact.

    Four supercells are drawn and their vectors reduced; the one whose longest vector is shortest is returned. All
    numbers are integers: lattices often have vectors of equal length, whose order would depend on rounding errors of
    floats, which differ between machines.
    """
    metric = np.rint(1e6 * cell @ cell.T).astype(np.int64)
    drawn = [reduced(hermite(copies, rng), metric) for _ in range(4)]
    best = min(drawn, key=lambda matrix: int(np.diag(matrix @ metric @ matrix.T).max()))
    return best if np.linalg.det(best) > 0 else -best


def reduced(matrix: NDArray[np.int64], metric: NDArray[np.int64]) -> NDArray[np.int64]:
    """Reduce a lattice, whose vectors are the rows of `matrix`, until no vector can be shortened by the others.

    The arithmetic is in integers. `metric` has the scalar products of the vectors in which `matrix` is expressed.
    """
    matrix, shortened = matrix.copy(), True
    while shortened:
        shortened = False
        for i, j in ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)):
            gram = matrix @ metric @ matrix.T
            n = (2 * gram[i, j] + gram[j, j]) // (2 * gram[j, j])  # nearest integer to the projection of i on j
            shorter = matrix[i] - n * matrix[j]
            if shorter @ metric @ shorter < gram[i, i]:
                matrix[i], shortened = shorter, True
    return matrix


def _species(elements: Sequence[str], n_atoms: int, rng: Generator) -> NDArray[np.int64]:
    """Draw an element for each atom, as an index into `elements`: up to four elements, each at least once."""
    n_species = int(rng.integers(1, min(MAX_SPECIES, n_atoms, len(elements)) + 1))
    chosen = rng.permutation(len(elements))[:n_species]
    return rng.permutation(np.concatenate([chosen, rng.choice(chosen, n_atoms - n_species)]))


def random_cell(elements: Sequence[str], max_atoms: int, rng: Generator) -> Atoms:
    """Place atoms one by one at random into a random triclinic cell.

    Distances are above 0.8 times the sum of two radii, also between an atom and its periodic images. The cell has 1 to
    1.3 times the volume of a crystal of these atoms (`volume`). It is enlarged if there is no room for an atom.
    """
    z = np.array([atomic_numbers[symbol] for symbol in elements])[
        _species(elements, int(rng.integers(1, max_atoms + 1)), rng)
    ]
    cell = np.array(_CUBE) + rng.uniform(-0.3, 0.3, (3, 3))
    looseness = rng.uniform(1.0, 1.3)
    while True:
        size = (looseness * volume(z) / np.linalg.det(cell)) ** (1 / 3)
        positions = _throw(z, size * cell, rng)
        if positions is not None:
            return Atoms(numbers=z, positions=positions, cell=size * cell, pbc=True)
        looseness *= 1.05


def _throw(z: NDArray[np.int64], cell: NDArray[np.float64], rng: Generator) -> NDArray[np.float64] | None:
    """Draw positions [n_atoms, 3] Å without overlaps; None if 50 attempts found no room for an atom."""
    own_images = np.linalg.norm(np.delete(_IMAGES, 13, axis=0) @ cell, axis=-1)  # the 13th is the cell itself
    if own_images.min() < 1.6 * radii(z).max():
        return None
    placed = rng.uniform(size=(1, 3))  # fractional
    for i in range(1, len(z)):
        trials = rng.uniform(size=(50, 1, 1, 3))
        apart = trials - placed[:, None, :] + _IMAGES  # [50, i, 27, 3]
        distances = np.linalg.norm(apart @ cell, axis=-1).min(axis=-1)  # [50, i]
        free = (distances > 0.8 * (radii(z[i : i + 1]) + radii(z[:i]))).all(axis=1)
        if not free.any():
            return None
        placed = np.vstack([placed, trials[np.argmax(free), 0]])
    return placed @ cell


def _scaled(atoms: Atoms, volume: float) -> Atoms:
    atoms.set_cell(atoms.cell * (volume / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
    return atoms


def volume(z: NDArray[np.int64]) -> float:
    """Volume in Å³ of a close-packed alloy of these atoms, by Vegard's rule (mean of the radii).

    >>> round(volume(np.array([29, 29])), 1)
    23.5
    """
    return float(len(z) * np.mean(radii(z)) ** 3 * np.sqrt(32.0))


def radii(z: NDArray[np.int64]) -> NDArray[np.float64]:
    """Radii of atoms in Å, [n]: half the nearest-neighbour distance in an fcc crystal of the element.

    The fcc crystal has the volume per atom of the element's own crystal. For elements that are not fcc, bcc or hcp, the
    radius is 1.1 times the covalent radius.
    """
    return np.array([_radius(int(number)) for number in z])


def _radius(number: int) -> float:
    reference: dict[str, Any] = reference_states[number] or {}
    a = reference.get("a", 0.0)
    atomic_volume = {"fcc": a**3 / 4, "bcc": a**3 / 2, "hcp": np.sqrt(0.75) * a**3 * reference.get("c/a", 0.0) / 2}
    symmetry = reference.get("symmetry")
    if symmetry in atomic_volume and "basis" not in reference:
        return float((atomic_volume[symmetry] / np.sqrt(32.0)) ** (1 / 3))
    # Open, molecular or unknown crystals: spheres a little larger than in a single bond.
    return 1.1 * float(covalent_radii[number])
