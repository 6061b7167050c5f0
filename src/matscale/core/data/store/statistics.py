"""Statistics of the properties of a dataset: moments and histograms, in one pass and bounded memory.

Bins have a fixed width (or a fixed width in log10), so that histograms of pieces, sources and whole datasets have the
same bins and can be added. Only bins that hold a value are kept. If there are too many bins (stress in kbar),
neighbouring bins are joined in pairs, repeatedly, so that memory and manifest stay small for any values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matscale.core.data.store.arrays import Arrays
from matscale.core.data.store.shard import windows

if TYPE_CHECKING:
    from matscale.core.data.store.packed import PackedDataset


@dataclass(frozen=True)
class Property:
    """Property of structures or of atoms, with the bins of its histogram."""

    summary: str
    unit: str
    width: float
    """Width of a bin, in the unit of the property, or in decades if `is_log`."""
    is_log: bool = False


PROPERTIES = {
    "n_atoms": Property("atoms of a structure", "", 1.0),
    "volume_per_atom": Property("volume per atom of structures with a cell", "Å³", 1.0),
    "energy_per_atom": Property("energy per atom", "eV", 0.25),
    "forces_norm": Property("force on an atom, its norm", "eV/Å", 0.1, is_log=True),
    "forces_component": Property("force on an atom, its components", "eV/Å", 0.05),
    "stress_component": Property("stress, its six components", "eV/Å³", 0.005),
    "stress_max": Property("stress, its largest component by size", "eV/Å³", 0.1, is_log=True),
}


MAX_BINS = 4096
"""Largest number of filled bins of a histogram."""


@dataclass
class Summary:
    """Moments and histogram of one property."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""
    minimum: float = np.inf
    maximum: float = -np.inf
    bins: dict[int, int] = field(default_factory=dict)
    """Number of values in each filled bin, by bin number; bin k covers [k, k + 1) · `joined` · `Property.width`."""
    joined: int = 1
    """Number of original bins that were joined into one bin: a power of two."""
    zeros: int = 0
    """Number of values that are exactly zero, if the property is logarithmic; they are in no bin."""

    def add(self, values: NDArray[np.float64], prop: Property) -> None:
        """Add values of the property `prop`. A value that is NaN (a missing label) is ignored."""
        values = values[np.isfinite(values)]
        if not len(values):
            return
        mean = float(values.mean())
        self._merge_moments(len(values), mean, float(((values - mean) ** 2).sum()))
        self.minimum, self.maximum = min(self.minimum, float(values.min())), max(self.maximum, float(values.max()))
        if prop.is_log:
            self.zeros += int((values == 0).sum())
            values = np.log10(values[values > 0])
        numbers, counts = np.unique(np.floor(values / prop.width).astype(np.int64), return_counts=True)
        self._fill(zip((numbers // self.joined).tolist(), counts.tolist()))
        while len(self.bins) > MAX_BINS:
            pairs, self.bins, self.joined = self.bins, {}, 2 * self.joined
            self._fill((number // 2, count) for number, count in pairs.items())

    def _fill(self, counted: Iterable[tuple[int, int]]) -> None:
        for number, count in counted:
            self.bins[number] = self.bins.get(number, 0) + count

    def _merge_moments(self, count: int, mean: float, squares: float) -> None:
        # Chan, Golub & LeVeque, The American Statistician 37, 242 (1983): exact however the data are cut.
        total, delta = self.count + count, mean - self.mean
        self.squares += squares + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    def plain(self) -> dict[str, Any]:
        """Convert to JSON-ready values: count, mean, std, rms, min, max, and bins as [[number, count], ...]."""
        if not self.count:
            return {"count": 0}
        variance = self.squares / self.count
        return {
            "count": self.count,
            "mean": self.mean,
            "std": variance**0.5,
            "rms": (variance + self.mean**2) ** 0.5,
            "min": self.minimum,
            "max": self.maximum,
            "zeros": self.zeros,
            "joined": self.joined,
            "bins": [list(item) for item in sorted(self.bins.items())],
        }


@dataclass
class PropertySummaries:
    """Summaries of all properties over a part of a dataset."""

    n_structures: int = 0
    summaries: dict[str, Summary] = field(default_factory=lambda: {name: Summary() for name in PROPERTIES})

    def add(self, arrays: Arrays) -> None:
        """Add the structures of a shard, or of a part of it.

        `arrays` are those described in `matscale.core.data.store.shard`.
        """
        self.n_structures += len(arrays["group"])
        for name, values in measure(arrays).items():
            self.summaries[name].add(values, PROPERTIES[name])

    def plain(self) -> dict[str, Any]:
        """Convert all summaries to JSON-ready values."""
        return {"n_structures": self.n_structures, **{name: s.plain() for name, s in self.summaries.items()}}


def edge(number: int, moments: Mapping[str, Any], prop: Property) -> float:
    """Lower edge of bin `number` of a histogram, in the unit of the property.

    `moments` is the result of `Summary.plain`.
    """
    lower = number * prop.width * int(moments.get("joined", 1))
    return float(10**lower) if prop.is_log else lower


def measure(arrays: Arrays) -> dict[str, NDArray[np.float64]]:
    """Measure every property of structures: a value for each structure, or for each atom in the case of forces.

    A value is NaN where the label is missing, or where there is no volume. `arrays` are those of a shard.
    """
    counts = np.diff(arrays["atom_ptr"])
    volume = np.abs(np.linalg.det(arrays["cell"]))
    stress = arrays["stress"]
    forces = np.asarray(arrays["forces"], dtype=np.float64)
    upper = stress[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return {
        "n_atoms": counts.astype(np.float64),
        "volume_per_atom": np.where(volume > 0, volume, np.nan) / np.maximum(counts, 1),
        "energy_per_atom": arrays["energy"] / np.maximum(counts, 1),
        "forces_norm": np.linalg.norm(forces, axis=1),
        "forces_component": forces.reshape(-1),
        "stress_component": upper.reshape(-1),
        "stress_max": np.abs(upper).max(axis=1, initial=0.0),
    }


def tally(arrays: Arrays, sources: Sequence[str], total: dict[str, PropertySummaries]) -> None:
    """Add structures to the summaries in `total`, under "all".

    If there are several `sources`, each structure is also added under the name of its source. `arrays` are those of a
    shard.
    """
    total.setdefault("all", PropertySummaries()).add(arrays)
    if len(sources) > 1:
        for number in np.unique(arrays["source"]):
            total.setdefault(sources[number], PropertySummaries()).add(take(arrays, arrays["source"] == number))


def take(arrays: Arrays, mask: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Select the structures for which `mask` [n_structures] is True, with their atoms."""
    counts = np.diff(arrays["atom_ptr"])
    atoms = np.repeat(mask, counts)
    per_atom = ("positions", "forces", "atomic_numbers")
    kept: Mapping[str, Any] = {k: v[atoms if k in per_atom else mask] for k, v in arrays.items() if k != "atom_ptr"}
    return {"atom_ptr": np.concatenate([[0], np.cumsum(counts[mask], dtype=np.int64)]), **kept}


def by_part(dataset: PackedDataset, parts: Mapping[str, NDArray[np.integer[Any]]]) -> dict[str, PropertySummaries]:
    """Summarise parts of a dataset, such as training and validation part, in one pass and bounded memory.

    `parts` has the row numbers of the structures of each part.
    """
    masks = {name: np.zeros(len(dataset), dtype=bool) for name in parts}
    for name, indices in parts.items():
        masks[name][indices] = True
    tallies = {name: PropertySummaries() for name in parts}
    for first, arrays in dataset.shards():
        start = first
        for window in windows(arrays):
            stop = start + len(window["group"])
            for name, mask in masks.items():
                tallies[name].add(take(window, mask[start:stop]))
            start = stop
    return tallies
