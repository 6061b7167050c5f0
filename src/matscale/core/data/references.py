"""Element reference energies: the part of the energy that composition alone explains, fitted by least squares.

    energy_s ≈ Σ_Z n_sZ · reference_Z        [eV]

Structures count equally and per atom: the fit minimises Σ_s ((energy_s − Σ_Z n_sZ reference_Z) / n_s)². Where the
compositions do not determine every element (rank below the number of elements), the solution of least norm is taken
and the rank says so. References are applied once, in `Potential`, and are always invertible: they only add up.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matscale.core.errors import DataError
from matscale.core.parsing import parse_json

if TYPE_CHECKING:
    from matscale.core.data.packed import PackedDataset

CHUNK = 8192


@dataclass(frozen=True)
class References:
    """Energies of the elements. `values` [119] eV by atomic number, 0 for elements that the fit did not see."""

    values: NDArray[np.float64]
    elements: tuple[int, ...]
    """Atomic numbers that the fit saw, ascending."""
    rank: int
    """Of the compositions; below `len(elements)`, only combinations of some references are determined."""
    residual_rms: float
    """eV/atom; what is left of the energy."""
    n_structures: int

    @property
    def is_determined(self) -> bool:
        """Whether every reference energy is, rather than only their sums over the compositions seen."""
        return self.rank == len(self.elements)

    def unseen(self, elements: Iterable[int]) -> tuple[int, ...]:
        """Those of these atomic numbers that the fit did not see."""
        return tuple(sorted(set(elements) - set(self.elements)))

    def energy(self, composition: NDArray[Any]) -> NDArray[np.float64]:
        """[n] eV of compositions [n, 119]."""
        return np.asarray(composition @ self.values, dtype=np.float64)

    def to_json(self) -> str:
        """Readable: symbol -> eV, with what is needed to judge the fit."""
        from ase.data import chemical_symbols

        return json.dumps(
            {
                "unit": "eV/atom",
                "references": {chemical_symbols[z]: float(self.values[z]) for z in self.elements},
                "rank": self.rank,
                "residual_rms": self.residual_rms,
                "n_structures": self.n_structures,
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> References:
        """The inverse of `to_json`. Raises DataError if it is something else."""
        from ase.data import atomic_numbers

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
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise DataError(
                f"Not a table of reference energies ({error!r}). `matscale data refs --json` writes one."
            ) from None


def fit_references(dataset: PackedDataset, indices: Any) -> References:
    """Fit on the structures at `indices` that have an energy. Memory does not grow with their number.

    Raises DataError if none has one.
    """
    # A QR factor that is updated chunk by chunk carries all that least squares needs, at full precision (normal
    # equations would square the condition number).
    factor: NDArray[np.float64] = np.zeros((0, 120))
    n = 0
    for counts, energy in _labelled(dataset, indices):
        rows = np.concatenate([counts, energy[:, None]], axis=1) / counts.sum(axis=1, keepdims=True)
        factor = np.asarray(np.linalg.qr(np.concatenate([factor, rows]), mode="r"))
        n += len(rows)
    if not n:
        raise DataError(f"{dataset.path}: no energy among these structures, so no reference energies can be fitted.")
    elements = np.flatnonzero(np.abs(factor[:, :119]).sum(axis=0) > 0)
    values = np.zeros(119)
    values[elements], _, rank, _ = np.linalg.lstsq(factor[:, elements], factor[:, 119], rcond=1e-10)
    residual = factor[:, elements] @ values[elements] - factor[:, 119]
    rms = float(np.sqrt((residual**2).sum() / n))
    return References(values, tuple(int(z) for z in elements), int(rank), rms, n)


def with_values(values: NDArray[np.float64], dataset: PackedDataset, indices: Any) -> References:
    """References that were not fitted here, with what they leave of the energies of the structures at `indices`."""
    squares, n = 0.0, 0
    for counts, energy in _labelled(dataset, indices):
        squares += float((((energy - counts @ values) / counts.sum(axis=1)) ** 2).sum())
        n += len(energy)
    elements = tuple(int(z) for z in np.flatnonzero(values))
    return References(values, elements, len(elements), float(np.sqrt(squares / max(n, 1))), n)


def _labelled(dataset: PackedDataset, indices: Any) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """(composition [k, 119], energy [k] eV) of the structures that have an energy, a chunk at a time."""
    indices = np.asarray(indices, dtype=np.int64)
    for start in range(0, len(indices), CHUNK):
        chunk = indices[start : start + CHUNK]
        energy = dataset.energies(chunk)
        known = np.isfinite(energy)
        yield dataset.composition(chunk[known]).astype(np.float64), energy[known]


def scales(dataset: PackedDataset, indices: Any, references: References) -> dict[str, float]:
    """Sizes of the labels of the structures at `indices`, for scaling a model's outputs.

    `energy_per_atom` [eV]: std of the referenced energy per atom; `energy` [eV]: std of the referenced total energy;
    `forces` [eV/Å]: rms of the components; `stress` [eV/Å³]: rms of the nine components. A label that is missing
    everywhere, or that is zero everywhere, has scale 1.
    """
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
    return {
        name: _spread(count, total, squares, centred=name.startswith("energy"))
        for name, (count, total, squares) in sums.items()
    }


def _spread(count: float, total: float, squares: float, centred: bool) -> float:
    if not count:
        return 1.0
    variance = squares / count - ((total / count) ** 2 if centred else 0.0)
    return float(np.sqrt(variance)) if variance > 1e-20 else 1.0
