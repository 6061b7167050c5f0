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
"""Decimals to which stored numbers are rounded, so that a recipe gives the same bytes and hash on all machines.

The rounding is far below any error of interest, and far above the last bit, which differs between processors.
"""

MPTRJ_ELEMENTS = tuple(chemical_symbols[z] for z in (*range(1, 84), *range(89, 95)))
"""The 89 elements in the Materials Project's trajectories, which universal potentials know: all up to Pu, except Po
to Ra.
"""


@dataclass(frozen=True)
class Labeler:
    """Labeler: a potential that labels structures, returned by the hook `register_labelers`."""

    name: str
    """Name on the command line: `--labeler emt`."""
    summary: str
    """One line."""
    reference: str
    """DOI or arXiv id of the paper."""
    calculator: Callable[[], Any]
    """Function that makes an ASE calculator: energy [eV], forces [eV/Å] and, if fully periodic, stress [eV/Å³].

    It is called once per parent structure, so that no state of a calculator is shared; cache what is slow to load.
    Raises PluginError if the labeler's package is missing.
    """
    tag: str | Callable[[], str]
    """Name and version of the potential for the manifest, "chgnet-0.3.0", or a function that returns them."""
    elements: tuple[str, ...] | None = None
    """Symbols of the elements that the labeler knows; None if it knows all."""

    def labels_by(self) -> str:
        """Text of `labels_by` in the manifest: "surrogate: chgnet-0.3.0"."""
        return f"surrogate: {self.tag if isinstance(self.tag, str) else self.tag()}"

    def choose(self, elements: Sequence[str]) -> tuple[str, ...]:
        """Return `elements`, or all that this labeler knows if none is given. Raises ConfigError for an unknown one."""
        if not elements and self.elements is None:
            raise ConfigError(f"The labeler {self.name!r} accepts all elements: choose some, such as --elements Cu,Ni.")
        known = self.elements or tuple(symbol for symbol in atomic_numbers if symbol != "X")
        for symbol in elements:
            if symbol not in known:
                raise ConfigError(f"The labeler {self.name!r} has no element {symbol!r}. {did_you_mean(symbol, known)}")
        return tuple(elements) or known


@contextmanager
def needs(package: str) -> Iterator[None]:
    """Context for importing a labeler's package; a missing one raises PluginError that says what to install."""
    try:
        yield
    except ImportError as error:
        raise PluginError(
            f"The labeler needs the package {package!r}, which cannot be imported ({error}). "
            "Install it with: pip install 'matscale[labelers]'"
        ) from error


def label(atoms: Any, calculator: Any) -> Structure:
    """Label `atoms` (ase.Atoms): return a Structure with the calculator's labels, rounded to `DECIMALS`.

    Positions are rounded before they are labelled, so that the labels belong to the stored positions. A structure that
    is not periodic in all three directions has no stress.
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
