"""Errors of a predictor in parts of a dataset: by element, source, size or formula, worst structures, parity plots.

A `Survey` listens to an evaluation and keeps sums only, so that its memory does not grow with the number of structures:
ten sums and counts for each group, the worst rows for each measure, and a grid of counts for each parity plot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray

from matscale.core.data.structure import VOIGT, Structure
from matscale.core.runs.config import LossConfig
from matscale.core.train.metrics import SUMS, Metrics, by_item
from matscale.core.train.residuals import Masks

if TYPE_CHECKING:
    from matscale.core.data.batch import AtomicBatch
    from matscale.core.data.store.packed import PackedDataset
    from matscale.core.model.outputs import Outputs

WAYS = ("element", "source", "n_atoms", "formula")
"""Ways to group the structures of a dataset.

With `element`, a group has the forces on the atoms of one element, and the energies and stresses of the structures that
contain this element. A structure therefore counts in several groups.
"""
MEASURES = {"energy": "energy_mae", "forces": "forces_l2", "stress": "stress_mae"}
"""Metric by which structures are ranked, by label; the fourth ranking, `loss`, is by the compared loss."""
TERMS = {
    "energy": "energy_mae",
    "forces": "forces_l2",
    "stress_isotropic": "stress_isotropic_mae",
    "stress_anisotropic": "stress_anisotropic_mae",
}
BINS = 100
"""Bins of a parity plot along each axis."""
CHUNK = 4096
Sums = NDArray[np.float64]


@dataclass(frozen=True)
class Bad:
    """Structure with a large error, and its errors by label [eV/atom, eV/Å, eV/Å³]; an error is absent if its label
    is."""

    row: int
    formula: str
    n_atoms: int
    source: str
    errors: Mapping[str, float]

    def plain(self) -> dict[str, Any]:
        return {
            "row": self.row, "formula": self.formula, "n_atoms": self.n_atoms, "source": self.source, **self.errors,
        }  # fmt: skip


@dataclass
class Grid:
    """Counts of a parity plot: [label, prediction] in `BINS` bins each, from `low` to `high`."""

    low: float
    high: float
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((BINS, BINS), dtype=np.int64))
    outside: int = 0
    """Number of predictions beyond the axis; they are in no bin."""

    def add(self, label: NDArray[np.float64], prediction: NDArray[np.float64]) -> None:
        x, y = (np.floor((v - self.low) / (self.high - self.low) * BINS) for v in (label, prediction))
        x, inside = np.clip(x, 0, BINS - 1), (y >= 0) & (y <= BINS)
        self.outside += int((~inside).sum())
        cells = x[inside].astype(np.int64) * BINS + np.minimum(y[inside], BINS - 1).astype(np.int64)
        self.counts += np.bincount(cells, minlength=BINS * BINS).reshape(BINS, BINS)


class Survey:
    """Errors by group, worst structures and parity plots of one predictor. Call `add` with every batch.

    `by` are names in `WAYS`. `n_worst` structures are kept for each ranking. `grids` has the axes of parity plots, as
    `ranges_of` gives them.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        by: Iterable[str] = (),
        n_worst: int = 0,
        grids: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.dataset, self.n_worst = dataset, n_worst
        self.sums: dict[str, dict[str, Sums]] = {way: {} for way in by}
        self.grids = {name: Grid(low, high) for name, (low, high) in (grids or {}).items()}
        self._worst: dict[str, NDArray[np.float64]] = {name: np.zeros((0, 2)) for name in ("loss", *MEASURES)}
        self._errors: dict[int, dict[str, float]] = {}
        self._sources = source_names(dataset)

    @torch.no_grad()
    def add(self, outputs: Outputs, batch: AtomicBatch) -> None:
        """Add the errors of a batch of rows of the dataset."""
        structures, atoms = by_item(outputs, batch)
        whole = structures.index_add(0, batch.batch, atoms)
        of_structures = structures.cpu().numpy()
        sums = whole.cpu().numpy()
        if self.sums:
            self._group(batch, of_structures, atoms.cpu().numpy(), sums)
        if self.n_worst:
            self._rank(batch, sums)
        for name, label, prediction in _pairs(outputs, batch):
            if name in self.grids:
                self.grids[name].add(label, prediction)

    def _group(self, batch: AtomicBatch, of_structures: Sums, of_atoms: Sums, sums: Sums) -> None:
        assert batch.index is not None
        rows, counts = batch.index.cpu().numpy(), batch.atoms_per_structure.cpu().numpy()
        numbers, owner = batch.atomic_numbers.cpu().numpy(), batch.batch.cpu().numpy()
        n_items = np.stack([np.ones(len(rows)), counts], axis=1)
        if "element" in self.sums:
            present = np.zeros((len(rows), len(chemical_symbols)))
            present[owner, numbers] = 1.0
            found = np.einsum("sz,sk...->zk...", present, of_structures)
            np.add.at(found, numbers, of_atoms)
            n_atoms = np.bincount(numbers, minlength=len(chemical_symbols))
            for z in np.flatnonzero(n_atoms):
                self._put("element", chemical_symbols[z], found[z], np.array([present[:, z].sum(), n_atoms[z]]))
        keys: dict[str, Sequence[str]] = {
            "source": [self._sources[k] for k in self.dataset.sources[rows]] if "source" in self.sums else (),
            "n_atoms": [str(n) for n in counts],
            "formula": _formulas(numbers, counts) if "formula" in self.sums else (),
        }
        for way in self.sums:
            for key, one, items in zip(keys.get(way, ()), sums, n_items):
                self._put(way, key, one, items)

    def _put(self, way: str, key: str, sums: Sums, n_items: Sums) -> None:
        """Add sums to a group; the numbers of structures and atoms become the last row of its sums."""
        both = np.concatenate([sums, n_items[None]])
        groups = self.sums[way]
        groups[key] = groups[key] + both if key in groups else both

    def _rank(self, batch: AtomicBatch, sums: Sums) -> None:
        assert batch.index is not None
        rows, errors = batch.index.cpu().numpy(), structure_errors(sums)
        for name, kept in self._worst.items():
            values = np.stack([errors[name], rows], axis=1)
            both = np.concatenate([kept, values[np.isfinite(values[:, 0])]])
            self._worst[name] = both[np.lexsort((both[:, 1], -both[:, 0]))[: self.n_worst]]
        held = {int(row) for kept in self._worst.values() for row in kept[:, 1]}
        for k, row in enumerate(rows.tolist()):
            if row in held:
                said = {name: float(values[k]) for name, values in errors.items()}
                self._errors[row] = {name: value for name, value in said.items() if np.isfinite(value)}
        self._errors = {row: said for row, said in self._errors.items() if row in held}

    def groups(self) -> dict[str, dict[str, dict[str, float]]]:
        """Metrics of each group, with `n_structures`, by way and group.

        Sizes ascend, elements are in the order of the periodic table, and other groups are in alphabetical order.
        """
        return {way: {key: _metrics(found[key]) for key in _ordered(way, found)} for way, found in self.sums.items()}

    def worst(self, ranking: str = "loss") -> list[Bad]:
        """Structures with the largest errors, the largest first; `ranking` is `loss`, energy, forces or stress."""
        return [self._bad(int(row)) for row in self._worst[ranking][:, 1]]

    def _bad(self, row: int) -> Bad:
        structure = self.dataset.structure(row)
        source = self._sources[int(self.dataset.sources[row])]
        return Bad(row, structure.formula, len(structure), source, self._errors[row])


def structure_errors(sums: Sums) -> dict[str, NDArray[np.float64]]:
    """Errors of single structures from their sums [n_structures, n, 2], by ranking; NaN without a label.

    The loss of a structure is the compared loss of a dataset that has this structure alone.
    """
    total, count = sums[..., 0], sums[..., 1]
    means = dict(zip(SUMS, np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0).T))
    weights = LossConfig()
    terms = np.stack([weights.term(name).weight * means[key] for name, key in TERMS.items()])
    known = np.isfinite(terms).any(axis=0) & (total[:, SUMS.index("unpredicted")] == 0)
    errors = {name: means[key] for name, key in MEASURES.items()}
    return {"loss": np.where(known, np.nansum(terms, axis=0), np.nan), **errors}


def _metrics(sums: Sums) -> dict[str, float]:
    metrics = Metrics()
    metrics.load(sums[:-1].tolist())
    n_structures, n_atoms = (int(n) for n in sums[-1])
    return {**metrics.values(), "n_structures": n_structures, "n_atoms": n_atoms}


def _ordered(way: str, keys: Iterable[str]) -> list[str]:
    if way == "n_atoms":
        return sorted(keys, key=int)
    if way == "element":
        return sorted(keys, key=chemical_symbols.index)
    return sorted(keys)


def _formulas(numbers: NDArray[np.int64], counts: NDArray[np.int64]) -> list[str]:
    nothing = np.zeros((0, 3))
    return [
        Structure(each, nothing, np.eye(3), np.ones(3, dtype=bool)).formula
        for each in np.split(numbers, np.cumsum(counts)[:-1])
    ]


def source_names(dataset: PackedDataset) -> list[str]:
    """Names of the sources of a dataset, shortened to their last parts as far as they stay different.

    A dataset that was made without files has the one source `all`.
    """
    paths = [PurePath(source.path).parts for source in dataset.manifest.sources] or [("all",)]
    depth = next((k for k in range(1, max(map(len, paths)) + 1) if len({p[-k:] for p in paths}) == len(set(paths))), 1)
    return ["/".join(parts[-depth:]) for parts in paths]


def _pairs(outputs: Outputs, batch: AtomicBatch) -> Iterable[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """Labels and predictions of a batch for parity plots: energies per atom, components of forces and stress."""
    masks = Masks.of(batch)
    if masks.energy is not None and batch.energy is not None:
        each = batch.atoms_per_structure[masks.energy]
        yield "energy", _numpy(batch.energy[masks.energy] / each), _numpy(outputs.energy[masks.energy] / each)
    if masks.forces is not None and batch.forces is not None and outputs.forces is not None:
        yield "forces", _numpy(batch.forces[masks.forces]), _numpy(outputs.forces[masks.forces])
    if masks.stress is not None and batch.stress is not None and outputs.stress is not None:
        a, b = zip(*VOIGT)
        yield "stress", _numpy(batch.stress[masks.stress][:, a, b]), _numpy(outputs.stress[masks.stress][:, a, b])


def _numpy(x: torch.Tensor) -> NDArray[np.float64]:
    return x.detach().double().cpu().numpy().reshape(-1)


def ranges_of(dataset: PackedDataset, rows: NDArray[np.int64]) -> dict[str, tuple[float, float]]:
    """Smallest and largest label for the axes of parity plots, a little widened, by label; absent without labels."""
    found: dict[str, tuple[float, float]] = {}
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        forces, stress = dataset.labels(chunk)
        a, b = zip(*VOIGT)
        labels = {
            "energy": dataset.energies(chunk) / dataset.n_atoms[chunk],
            "forces": forces,
            "stress": stress[:, a, b],
        }
        for name, values in labels.items():
            values = values[np.isfinite(values)]
            if len(values):
                low, high = found.get(name, (np.inf, -np.inf))
                found[name] = min(low, float(values.min())), max(high, float(values.max()))
    margin = {name: 0.04 * (high - low) or 1e-3 for name, (low, high) in found.items()}
    return {name: (low - margin[name], high + margin[name]) for name, (low, high) in found.items()}
