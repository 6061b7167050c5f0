"""Reader of a file format: turns a file into structures, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from matscale.core.data.sources.labels import CALCULATOR, Unusable
from matscale.core.data.structure import Structure

Frame = Structure | Unusable
"""Item that a reader yields: a structure, or the reason why the structure at this position cannot be read."""

_GEOMETRY = ("numbers", "positions")


@dataclass(frozen=True)
class Reader:
    """Reader of a file format: functions that recognise, read and count."""

    name: str
    summary: str
    matches: Callable[[Path], bool]
    """Function that says whether the file at a path has this format, judged by its name or content."""
    read: Callable[[Path, int, int | None], Iterator[Frame]]
    """Function (path, start, stop) that yields structures `start` to `stop` − 1 of a file, in order, one at a time.

    If `stop` is None, it yields all structures up to the end of the file. It raises DataError if the file cannot be
    read at all.
    """
    count: Callable[[Path], int | None]
    """Function that counts the structures in the file at a path.

    It returns None if it would have to read the structures for this.
    """
    is_generic: bool = False
    """Whether this reader is used only for files that no other reader knows."""
    is_guarded: bool = False
    """Whether files are read in a separate process, because a library may crash or use much memory or time."""


def from_ase(atoms: Any, source: str) -> Structure:
    """Convert ase.Atoms to a structure; `source` names their origin in messages.

    Everything except the geometry goes into `info` of the structure: info and further arrays of the atoms, and results
    of their calculator. Raises Unusable for sites with partial or mixed occupancy, since ASE keeps only one element of
    each.
    """
    _refuse_disorder(atoms, source)
    structure = Structure.from_ase(atoms, source)
    structure.info = {
        **atoms.info,
        **{name: value for name, value in atoms.arrays.items() if name not in _GEOMETRY},
        **{CALCULATOR + name: value for name, value in (atoms.calc.results if atoms.calc else {}).items()},
    }
    structure.per_atom = [name for name in atoms.arrays if name not in _GEOMETRY]
    return structure


def _refuse_disorder(atoms: Any, source: str) -> None:
    sites = atoms.info.get("occupancy")
    told: Any
    if isinstance(sites, dict):  # as ASE reads it from CIF: {"0": {"Ni": 0.6, "Cu": 0.4}}
        shares = [site for site in sites.values() if isinstance(site, dict)]
        told = next((site for site in shares if len(site) > 1 or abs(sum(site.values()) - 1) > 1e-3), None)
    else:  # from PDB: a number for each atom; 0 for all if the program did not write it
        numbers = np.asarray(atoms.arrays.get("occupancy", ()))
        given = numbers[numbers > 0] if numbers.dtype.kind in "iuf" else numbers[:0]
        told = next((float(share) for share in given if share < 0.999), None)
    if told is not None:
        raise Unusable(
            "partly occupied site",
            f"{source}: a site has an occupancy of {told}; write an ordered structure, with one atom on each site",
        )


def to_ase(structure: Structure) -> Any:
    """Convert a structure to ase.Atoms with all values that its file has. This is the inverse of `from_ase`."""
    from ase import Atoms  # start-up: ase
    from ase.calculators.singlepoint import SinglePointCalculator

    geometry = {"positions": structure.positions, "cell": structure.cell, "pbc": structure.pbc}
    atoms, results = Atoms(numbers=structure.atomic_numbers, **geometry), {}
    for name, value in structure.info.items():
        if name.startswith(CALCULATOR):
            results[name.removeprefix(CALCULATOR)] = value
        elif name in structure.per_atom and np.shape(value)[:1] == (len(structure),):
            atoms.arrays[name] = np.asarray(value)
        else:
            atoms.info[name] = value
    if results:
        atoms.calc = SinglePointCalculator(atoms)
        atoms.calc.results.update(results)
    return atoms
