"""Labelers: potentials that label structures with energy, forces and stress, in place of first-principles data.

Such data are surrogates, and the manifest of a dataset says so (`labels_by`). A plugin supplies labelers through the
hook `register_labelers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from matscale.core.data.structure import Structure, voigt_to_full
from matscale.core.errors import ConfigError, PluginError, did_you_mean

DECIMALS = {"positions": 6, "cell": 6, "energy": 6, "forces": 6, "stress": 8}
"""Number of decimals to which stored numbers are rounded.

The rounding is far below any error of interest, and far above differences between processors in the last bit. Therefore
a recipe gives the same bytes and the same hash on all machines.
"""

MPTRJ_ELEMENTS = tuple(chemical_symbols[z] for z in (*range(1, 84), *range(89, 95)))
"""The 89 elements in the trajectories of the Materials Project (MPtrj), which universal potentials know.

They are all elements up to Pu, except those from Po to Ra.
"""


@dataclass(frozen=True)
class Labeler:
    """Potential that labels structures, supplied by a plugin through the hook `register_labelers`."""

    name: str
    """Name on the command line: `--labeler emt`."""
    summary: str
    """Description in one line."""
    reference: str
    """DOI or arXiv id of the paper on the potential."""
    calculator: Callable[[], Any]
    """Function that makes an ASE calculator: energy [eV], forces [eV/Å] and, if fully periodic, stress [eV/Å³].

    It is called once per parent structure, so that parents share no state of a calculator; cache what is slow to load.
    It raises PluginError if the labeler's package is missing.
    """
    tag: str | Callable[[], str]
    """Name and version of the potential for the manifest, such as "chgnet-0.3.0"; or a function that returns them."""
    elements: tuple[str, ...] | None = None
    """Symbols of the elements that the labeler knows; None if it knows all."""

    def labels_by(self) -> str:
        """Text for `labels_by` in the manifest, such as "surrogate: chgnet-0.3.0"."""
        return f"surrogate: {self.tag if isinstance(self.tag, str) else self.tag()}"

    def choose(self, elements: Sequence[str]) -> tuple[str, ...]:
        """Return `elements`, or all elements that this labeler knows if `elements` is empty.

        Raises ConfigError for an element that the labeler does not know.
        """
        if not elements and self.elements is None:
            raise ConfigError(f"The labeler {self.name!r} accepts all elements: choose some, such as --elements Cu,Ni.")
        known = self.elements or tuple(symbol for symbol in atomic_numbers if symbol != "X")
        for symbol in elements:
            if symbol not in known:
                raise ConfigError(f"The labeler {self.name!r} has no element {symbol!r}. {did_you_mean(symbol, known)}")
        return tuple(elements) or known


@contextmanager
def needs(package: str) -> Iterator[None]:
    """Context for importing the package of a labeler.

    If the package is missing, raises PluginError that says what to install.
    """
    try:
        yield
    except ImportError as error:
        raise PluginError(
            f"The labeler needs the package {package!r}, which cannot be imported ({error}). "
            "Install it with: pip install 'matscale[labelers]'"
        ) from error


def label(atoms: Any, calculator: Any) -> Structure:
    """Label a structure: return it with energy, forces and stress of the calculator, rounded to `DECIMALS`.

    Positions are rounded first, so that the labels belong to the stored positions. A structure that is not periodic in
    all three directions gets no stress.
    """
    rounded = atoms.copy()
    rounded.set_cell(_rounded("cell", atoms.cell.array))
    rounded.set_positions(_rounded("positions", atoms.get_positions()))
    rounded.calc = calculator
    structure = Structure.from_ase(rounded)
    structure.energy = float(_rounded("energy", rounded.get_potential_energy()))
    structure.forces = _rounded("forces", rounded.get_forces())
    if structure.pbc.all():
        structure.stress = _rounded("stress", voigt_to_full(rounded.get_stress()))
    return structure


def _rounded(name: str, values: Any) -> Any:
    # Adding 0.0 turns −0.0 into 0.0: equal numbers, but not equal bytes.
    return np.round(np.asarray(values, dtype=np.float64), DECIMALS[name]) + 0.0
