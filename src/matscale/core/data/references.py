"""Element reference energies: the part of the energy that composition alone explains.

    energy_s ≈ Σ_Z n_sZ · reference_Z        [eV]

Here n_sZ is the number of atoms of element Z in structure s. Each structure has the same weight, and energies count per
atom. With x_s = n_s / Σ_Z n_sZ and y_s = energy_s / Σ_Z n_sZ the fit minimises

    Σ_s (y_s − x_s · reference)²  +  shrinkage · Σ_Z (reference_Z − mean y)²

With many elements and few structures of each element, least squares (`shrinkage` 0) predicts held-out structures badly;
then the references are shrunk towards the mean energy per atom. The shrinkage is chosen by cross-validation over
`FOLDS` parts of the structures; structures of one group (see `split`) are in the same part. Shrunk references replace
least squares only if their error is below `BETTER` times that of least squares. A shrinkage of 1 acts like one more
structure of each pure element, with the mean energy per atom.

If the compositions do not determine the reference of every element, the solution closest to the mean is taken. Only
`Potential` adds the references to a model's energy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matscale.core.errors import DataError
from matscale.core.parsing import parse_json

if TYPE_CHECKING:
    from matscale.core.data.store.packed import PackedDataset

CHUNK = 8192
FOLDS = 5
LISTED = 20
"""Largest number of elements that a message lists; `references.json` lists all of them."""
SHRINKAGES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1e6)
"""Values of `shrinkage` that are tried; with the last one, all references are nearly the mean."""
BETTER = 0.9
"""Largest held-out error, relative to that of least squares, at which a shrunk fit replaces least squares."""
DETERMINED = 0.25
"""Least weight that the data must have for an element, so that its reference counts as determined.

A structure of the pure element has weight 1; a structure with half of its atoms of the element has weight 0.25 (see
`_Factor.weight`).
"""
_RCOND = 1e-10


@dataclass(frozen=True)
class HeldOutErrors:
    """Root mean square errors [eV/atom] on held-out structures: see the top of this module."""

    rms: float
    """Error of references that are fitted with the chosen shrinkage."""
    least_squares: float
    constant: float
    """Error if every structure is predicted to have the mean energy per atom of the other structures."""


@dataclass(frozen=True)
class References:
    """Reference energies of the elements, and measures of their quality.

    `values` [119] has the energies [eV] by atomic number, and 0 for elements that are not in the fitted structures.
    """

    values: NDArray[np.float64]
    elements: tuple[int, ...]
    """Atomic numbers of the elements in the fitted structures, ascending."""
    rank: int
    """Rank of the matrix of compositions; if below `len(elements)`, only some sums of references are determined."""
    residual_rms: float
    """Root mean square residual of the fit [eV/atom]."""
    n_structures: int
    shrinkage: float = 0.0
    """Shrinkage towards the mean energy per atom; 0: least squares."""
    undetermined: tuple[int, ...] = ()
    """Atomic numbers of elements for which the data have less weight than `DETERMINED`, or than the shrinkage."""
    held_out: HeldOutErrors | None = None
    """Errors on held-out structures; None if there are too few structures."""

    @property
    def is_determined(self) -> bool:
        """Whether the data determine the reference of every element, and not only sums of references."""
        return self.rank == len(self.elements) and not self.undetermined

    def judged(self) -> list[str]:
        """Describe the quality of the fit: errors on held-out structures, and elements that are not determined."""
        from ase.data import chemical_symbols  # start-up: ase

        lines = []
        if self.held_out is not None:
            found = self.held_out
            by = f"shrunk references {found.rms:.3g} eV/atom, least squares {found.least_squares:.3g}"
            by = by if self.shrinkage else f"references {found.rms:.3g} eV/atom"
            lines.append(f"error on held-out structures (rms): {by}, a constant {found.constant:.3g}")
        if self.undetermined:
            few = self.undetermined[:LISTED]
            more = f" and {len(self.undetermined) - LISTED} more" if len(self.undetermined) > LISTED else ""
            lines.append(
                f"references not determined by the data, {len(self.undetermined)} of {len(self.elements)} elements: "
                f"{', '.join(chemical_symbols[z] for z in few)}{more}"
            )
        return lines

    def unseen(self, elements: Iterable[int]) -> tuple[int, ...]:
        """Atomic numbers among `elements` that do not occur in the fitted structures."""
        return tuple(sorted(set(elements) - set(self.elements)))

    def energy(self, composition: NDArray[Any]) -> NDArray[np.float64]:
        """Energies [n_structures] eV that the references give for compositions.

        `composition` [n_structures, 119] counts the atoms of each structure by atomic number.
        """
        return np.asarray(composition @ self.values, dtype=np.float64)

    def to_json(self) -> str:
        """Format as JSON: the reference energy [eV] of each element symbol, and the quality of the fit."""
        from ase.data import chemical_symbols  # start-up: ase

        return json.dumps(
            {
                "unit": "eV/atom",
                "references": {chemical_symbols[z]: float(self.values[z]) for z in self.elements},
                "rank": self.rank,
                "residual_rms": self.residual_rms,
                "n_structures": self.n_structures,
                "shrinkage": self.shrinkage,
                "undetermined": [chemical_symbols[z] for z in self.undetermined],
                "held_out_rms": None if self.held_out is None else asdict(self.held_out),
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> References:
        """Parse the output of `to_json`. Raises DataError for any other text."""
        from ase.data import atomic_numbers  # start-up: ase

        try:
            given = parse_json(text)
            energies = {atomic_numbers[symbol]: float(energy) for symbol, energy in given["references"].items()}
            values = np.zeros(119)
            values[list(energies)] = list(energies.values())
            return cls(
                values,
                tuple(sorted(energies)),
                int(given["rank"]),
                float(given["residual_rms"]),
                int(given["n_structures"]),
                float(given.get("shrinkage", 0.0)),
                tuple(atomic_numbers[symbol] for symbol in given.get("undetermined", ())),
                HeldOutErrors(**held_out) if (held_out := given.get("held_out_rms")) else None,
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise DataError(
                f"This is not a table of reference energies ({error!r}). `matscale data refs --json` writes one."
            ) from None


def fit_references(dataset: PackedDataset, indices: Any, energies: NDArray[np.float64] | None = None) -> References:
    """Fit references to the energies of the structures at `indices`, in bounded memory.

    If `energies` [len(indices)] eV are given, they are fitted in place of those in the dataset. Structures without an
    energy are left out. Raises DataError if no structure has an energy.
    """
    # A QR factor that is updated chunk by chunk has all that least squares needs, at full precision (normal
    # equations would square the condition number). Those of the folds are enough for cross-validation.
    indices = np.asarray(indices, dtype=np.int64)
    folds = _folds(dataset, indices)
    whole, parts = _Factor(), [_Factor() for _ in range(FOLDS)]
    for places, counts, energy in _labelled(dataset, indices, energies):
        rows = np.concatenate([counts, energy[:, None]], axis=1) / counts.sum(axis=1, keepdims=True)
        whole.add(rows)
        for fold, part in enumerate(parts):
            part.add(rows[folds[places] == fold])
    if not whole.n:
        raise DataError(
            f"{dataset.path}: none of the chosen structures has an energy, so no reference energies can be fitted. "
            "Choose structures with energies."
        )
    shrinkage, held_out = _chosen([part for part in parts if part.n])
    elements = np.flatnonzero(np.abs(whole.r[:, :119]).sum(axis=0) > 0)
    values, rank = whole.solve(elements, shrinkage)
    return References(
        values,
        tuple(int(z) for z in elements),
        rank,
        float(np.sqrt(whole.squares(values) / whole.n)),
        whole.n,
        shrinkage,
        tuple(int(z) for z in elements[whole.weight(elements) < max(DETERMINED, shrinkage)]),
        held_out,
    )


class _Factor:
    """R factor of the QR decomposition of a matrix with one row per structure.

    A row consists of composition / n_atoms [119] and energy / n_atoms.
    """

    def __init__(self) -> None:
        self.r: NDArray[np.float64] = np.zeros((0, 120))
        self.n, self.total = 0, 0.0

    def add(self, rows: NDArray[np.float64]) -> None:
        if len(rows):
            self._take(rows, len(rows), float(rows[:, 119].sum()))

    def without(self, all_parts: list[_Factor]) -> _Factor:
        """Join all factors in `all_parts` except this one."""
        rest = _Factor()
        for other in all_parts:
            if other is not self:
                rest._take(other.r, other.n, other.total)
        return rest

    def _take(self, rows: NDArray[np.float64], n: int, total: float) -> None:
        self.r = np.asarray(np.linalg.qr(np.concatenate([self.r, rows]), mode="r"))
        self.n, self.total = self.n + n, self.total + total

    def solve(self, elements: NDArray[np.int64], shrinkage: float) -> tuple[NDArray[np.float64], int]:
        """Compute the references [119] of `elements`, and the rank of the compositions.

        References of other elements are 0.
        """
        values = np.zeros(119)
        x, y, mean = self.r[:, elements], self.r[:, 119], self.total / self.n
        values[elements], _, rank, _ = np.linalg.lstsq(x, y, rcond=_RCOND)
        if shrinkage or rank < len(elements):
            pull = np.sqrt(shrinkage) * np.eye(len(elements))
            left = np.concatenate([y - x.sum(axis=1) * mean, np.zeros(len(elements))])
            values[elements] = mean + np.linalg.lstsq(np.concatenate([x, pull]), left, rcond=_RCOND)[0]
        return values, int(rank)

    def squares(self, values: NDArray[np.float64]) -> float:
        """Sum over structures of the squared error of the energy per atom, with references `values` [119]."""
        return float(((self.r[:, :119] @ values - self.r[:, 119]) ** 2).sum())

    def weight(self, elements: NDArray[np.int64]) -> NDArray[np.float64]:
        """Weight of each element: how many structures of the pure element would determine its reference equally well.

        It is 1 / [(XᵀX)⁻¹]_ZZ for element Z, where X [n_structures, n_elements] has the compositions per atom.
        """
        _, s, v = np.linalg.svd(self.r[:, elements], full_matrices=True)
        s = np.concatenate([s, np.zeros(len(elements) - len(s))])
        inverse = np.zeros(len(elements))
        for size, direction in zip(s, v):
            share = direction**2
            unknown = size <= _RCOND * s[0]
            inverse += np.where(share > _RCOND, np.inf, 0.0) if unknown else share / size**2
        return 1 / inverse


def _folds(dataset: PackedDataset, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Divide structures into parts for cross-validation: the number of the part of each, [len(indices)].

    Groups stay together, unless all would fall into one part.
    """
    for keys in (dataset.groups[indices], indices):
        mixed = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # adjacent keys fall into different folds
        folds = ((mixed >> np.uint64(40)) % np.uint64(FOLDS)).astype(np.int64)
        if len(np.unique(folds)) > 1:
            break
    return folds


def _chosen(parts: list[_Factor]) -> tuple[float, HeldOutErrors | None]:
    """Choose the shrinkage by cross-validation. Returns the shrinkage, and the errors on held-out structures.

    For each part, references are fitted to the other parts. An element that is missing in the other parts gets their
    mean energy per atom.
    """
    if len(parts) < 2:
        return 0.0, None
    squares, constant = np.zeros(len(SHRINKAGES)), 0.0
    for part in parts:
        rest = part.without(parts)
        elements = np.flatnonzero(np.abs(rest.r[:, :119]).sum(axis=0) > 0)
        mean = np.full(119, rest.total / rest.n)
        constant += part.squares(mean)
        for k, shrinkage in enumerate(SHRINKAGES):
            values = mean.copy()
            values[elements] = rest.solve(elements, shrinkage)[0][elements]
            squares[k] += part.squares(values)
    rms = np.sqrt(squares / sum(part.n for part in parts))
    best = int(rms.argmin())
    best = best if rms[best] < BETTER * rms[0] else 0
    return SHRINKAGES[best], HeldOutErrors(
        float(rms[best]), float(rms[0]), float(np.sqrt(constant / sum(p.n for p in parts)))
    )


def with_values(values: NDArray[np.float64], dataset: PackedDataset, indices: Any) -> References:
    """Make references from given values, with the residuals of the structures at `indices`."""
    squares, n = 0.0, 0
    for _, counts, energy in _labelled(dataset, np.asarray(indices, dtype=np.int64)):
        squares += float((((energy - counts @ values) / counts.sum(axis=1)) ** 2).sum())
        n += len(energy)
    elements = tuple(int(z) for z in np.flatnonzero(values))
    return References(values, elements, len(elements), float(np.sqrt(squares / max(n, 1))), n)


def _labelled(
    dataset: PackedDataset, indices: NDArray[np.int64], energies: NDArray[np.float64] | None = None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]]:
    """Yield the structures that have an energy, in chunks of k structures.

    A chunk is (positions in `indices` [k], compositions [k, 119], energies [k] eV).
    """
    for start in range(0, len(indices), CHUNK):
        chunk = indices[start : start + CHUNK]
        energy = dataset.energies(chunk) if energies is None else energies[start : start + CHUNK]
        known = np.isfinite(energy)
        places = start + np.flatnonzero(known)
        yield places, dataset.composition(chunk[known]).astype(np.float64), energy[known]


def scales(dataset: PackedDataset, indices: Any, references: References) -> dict[str, float]:
    """Scales of the labels of the structures at `indices`, by which a model's outputs are multiplied.

    `energy_per_atom` [eV] is the standard deviation of the energy per atom after subtraction of the references,
    `energy` [eV] that of the total energy after subtraction of the references, `forces` [eV/Å] the rms of the
    components, and `stress` [eV/Å³] the rms of the nine components. A label that is missing everywhere, or zero
    everywhere, has scale 1.
    """
    sums = _label_sums(dataset, indices, references)
    return {
        name: _spread(count, total, squares, centred=name.startswith("energy"))
        for name, (count, total, squares) in sums.items()
    }


SIZES = {
    "energy": ("energy_per_atom", "eV/atom after references"),
    "forces": ("forces", "eV/Å"),
    "stress": ("stress", "eV/Å³"),
}
"""For each label: its key in `scales`, and its unit for messages."""


def label_rms(dataset: PackedDataset, indices: Any, references: References) -> dict[str, float]:
    """Root mean square of the labels in `SIZES` over the structures at `indices`; missing labels are left out."""
    sums = _label_sums(dataset, indices, references)
    found = {label: sums[name] for label, (name, _) in SIZES.items()}
    return {label: float(np.sqrt(squares / count)) for label, (count, _, squares) in found.items() if count}


def evenly(rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Choose `n` of `rows`, evenly spaced, or all of them if there are fewer.

    >>> evenly(np.arange(100), 5).tolist()
    [0, 24, 49, 74, 99]
    """
    return rows[np.unique(np.linspace(0, len(rows) - 1, n).astype(int))] if len(rows) > n else rows


def _label_sums(dataset: PackedDataset, indices: Any, references: References) -> dict[str, list[float]]:
    """Compute (count, sum, sum of squares) of every label, under its key in `scales`."""
    indices = np.asarray(indices, dtype=np.int64)
    sums: dict[str, list[float]] = {name: [0.0, 0.0, 0.0] for name in ("energy_per_atom", "energy", "forces", "stress")}
    for start in range(0, len(indices), CHUNK):
        chunk = indices[start : start + CHUNK]
        counts = dataset.composition(chunk)
        energy = dataset.energies(chunk) - references.energy(counts)
        forces, stress = dataset.labels(chunk)
        parts = {"energy_per_atom": energy / counts.sum(axis=1), "energy": energy, "forces": forces, "stress": stress}
        for name, values in parts.items():
            known = values[np.isfinite(values)]
            for k, term in enumerate((len(known), known.sum(), (known**2).sum())):
                sums[name][k] += float(term)
    return sums


def _spread(count: float, total: float, squares: float, centred: bool) -> float:
    if not count:
        return 1.0
    variance = squares / count - ((total / count) ** 2 if centred else 0.0)
    return float(np.sqrt(variance)) if variance > 1e-20 else 1.0
