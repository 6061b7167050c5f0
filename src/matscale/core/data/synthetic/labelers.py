"""Labelers: potentials that give structures energy, forces and stress, where no first-principles data are needed.

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
"""Digits kept of a made structure. Far below any error of interest, far above the last bit, which differs between
processors: so the same recipe gives the same bytes, hence the same dataset hash, on different machines."""

MPTRJ_ELEMENTS = tuple(chemical_symbols[z] for z in (*range(1, 84), *range(89, 95)))
"""The 89 elements of the Materials Project's trajectories, which universal potentials know: all to Pu, but Po to Ra."""


@dataclass(frozen=True)
class Labeler:
    """A potential that labels structures. Returned by the hook `register_labelers`."""

    name: str
    """Name on the command line: `--labeler emt`."""
    summary: str
    """One line."""
    reference: str
    """DOI or arXiv id of the paper."""
    calculator: Callable[[], Any]
    """Makes an ASE calculator with the properties energy [eV], forces [eV/Å] and, for fully periodic structures,
    stress [eV/Å³, tension positive]. Called once per parent structure, so that nothing a calculator remembers of one
    reaches another: what is costly to load should be cached behind it. Raises PluginError when its package is
    missing."""
    tag: str | Callable[[], str]
    """Entry in the manifest, with the version that decides the numbers: "chgnet-0.3.0"."""
    elements: tuple[str, ...] | None = None
    """Chemical symbols that it can label; None: any."""

    def labels_by(self) -> str:
        """Text of `labels_by` in the manifest: "surrogate: chgnet-0.3.0"."""
        return f"surrogate: {self.tag if isinstance(self.tag, str) else self.tag()}"

    def choose(self, elements: Sequence[str]) -> tuple[str, ...]:
        """Return `elements`, or all that this labeler knows if none are given. Raises ConfigError for an unknown
        one."""
        if not elements and self.elements is None:
            raise ConfigError(f"The labeler {self.name!r} knows any element: say which ones, as in --elements Cu,Ni.")
        known = self.elements or tuple(symbol for symbol in atomic_numbers if symbol != "X")
        for symbol in elements:
            if symbol not in known:
                raise ConfigError(f"The labeler {self.name!r} has no element {symbol!r}. {did_you_mean(symbol, known)}")
        return tuple(elements) or known


@contextmanager
def needs(package: str) -> Iterator[None]:
    """Context for the imports of a labeler's package: a missing one becomes a PluginError that says what to install."""
    try:
        yield
    except ImportError as error:
        raise PluginError(
            f"The labeler needs the package {package!r}, which cannot be imported ({error}). "
            "Install it with: pip install 'matscale[labelers]'"
        ) from error


def label(atoms: Any, calculator: Any) -> Structure:
    """Label `atoms` (ase.Atoms): a Structure with the calculator's labels, rounded to `DECIMALS`.

    Rounding comes before labelling, so that the labels are those of the positions that are stored. A structure that
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
