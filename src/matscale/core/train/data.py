"""Data of a training run: dataset, training and validation part, edges, and the facts about them that a model needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from matscale.core.data.graph import Graph
from matscale.core.data.isolated import check_rows
from matscale.core.data.named.catalog import resolve as locate
from matscale.core.data.references import SIZES, References, evenly, fit_references, label_rms, scales
from matscale.core.data.split import split
from matscale.core.data.store.edge_cache import open_cache
from matscale.core.data.store.edge_cache_build import build_cache
from matscale.core.data.store.packed import PackedDataset
from matscale.core.data.stress_units import check_stress
from matscale.core.errors import DataError
from matscale.core.model.architecture import DatasetInfo
from matscale.core.model.potential import Scales
from matscale.core.progress import Reporter
from matscale.core.runs.config import LABEL_OF, TERMS, TrainConfig
from matscale.core.train.pretext import Pretext

_FAR, _NEGLIGIBLE = 3.0, 1e-3
"""Thresholds of the warning that labels of the training and validation part differ in size.

It is given for a larger rms > 3 · smaller rms + 10⁻³ [unit of the label].
"""
_LABEL_SAMPLE = 4096
"""Number of structures of each part whose labels are compared."""
_DEGREE_SAMPLE = 128
"""Number of structures in which the mean number of neighbours is measured."""
NO_REFERENCES = References(np.zeros(119), (), 0, 0.0, 0)


@dataclass(frozen=True)
class TrainingData:
    """Dataset of a run, split into training and validation part, with the edges that the model needs."""

    dataset: PackedDataset
    train: NDArray[np.int64]
    """Rows of the dataset that belong to the training part."""
    validation: NDArray[np.int64]
    graph: Graph

    @classmethod
    def open(cls, config: TrainConfig, graph: Graph, progress: Reporter) -> TrainingData:
        """Open the dataset (a named one is downloaded if missing) and split it."""
        path = locate(config.data.path, progress)
        dataset = PackedDataset.open(path, config.data.in_memory, progress)
        return cls(dataset, *parts(dataset, config), graph)

    def make_ready(self, config: TrainConfig, pretext: Pretext | None, progress: Reporter) -> None:
        """Check labels and neighbours of the data, and cache the neighbour lists. Raises DataError for unusable data.

        Pre-training (`pretext`) needs no labels. If it adds noise to the positions, neighbour lists differ in every
        epoch and are not cached.
        """
        if pretext is None:
            self._check_labels(config)
        if config.data.cache_graphs and self.graph.has_edges and (pretext is None or pretext.noise is None):
            self._cache_edges(progress)
        if not config.data.isolated and (cache := open_cache(self.dataset, self.graph)):
            check_rows(self.dataset, np.concatenate([self.train, self.validation]), cache.n_edges, self.graph)

    def _check_labels(self, config: TrainConfig) -> None:
        for name, rows in (("training", self.train), ("validation", self.validation)):
            for label in sorted(config.loss.needs()):
                if not self.dataset.has(label)[rows].any():
                    terms = [t for t in TERMS if LABEL_OF[t] == label and config.loss.term(t).weight > 0]
                    off = " ".join(f"--set loss.{term}.weight=0" for term in terms)
                    raise DataError(
                        f"{self.dataset.path}: none of the {len(rows)} structures of the {name} part has the label "
                        f"{label!r}, which the loss needs. Pack data that have it, or train without it: {off}"
                    )
        if config.data.check_stress_unit and "stress" in config.loss.needs():
            check_stress(self.dataset, self.train)

    def _cache_edges(self, progress: Reporter) -> None:
        path = self.dataset.path
        if not os.access(path, os.W_OK):
            progress.said(f"{path} cannot be written to: neighbour lists are computed for every batch.")
            return
        build_cache(self.dataset, self.graph, progress=progress)

    # Facts for the model ----------------------------------------------------------------------------------------------

    def references(self) -> References:
        """Fit element references. They are zero if no training structure has an energy (only forces or stress)."""
        if self.dataset.has("energy")[self.train].any():
            return fit_references(self.dataset, self.train)
        return NO_REFERENCES

    def scales(self, references: References, derives: bool) -> Scales:
        """Measure the scales that convert a model's outputs to physical units.

        Direct models have three scales: the standard deviation of the energy per atom, with the element references
        subtracted, and the rms of forces and of stress. Models with forces by derivative (`derives`) use only the scale
        of the energy, here the rms of the forces × 1 Å (as in NequIP, arXiv:2101.03164).
        """
        measured = scales(self.dataset, self.train, references)
        has_forces = bool(self.dataset.has("forces")[self.train].any())
        energy = measured["forces"] if derives and has_forces else measured["energy_per_atom"]
        return Scales(energy, measured["forces"], measured["stress"])

    def info(self) -> DatasetInfo:
        """Elements of the training part, and its mean numbers of atoms and neighbours (neighbours from a sample)."""
        degree = 0.0
        if self.graph.has_edges:
            sample = self.dataset.batch(evenly(self.train, _DEGREE_SAMPLE), self.graph)
            degree = sample.n_edges / sample.n_atoms
        mean_atoms = float(self.dataset.n_atoms[self.train].mean())
        return DatasetInfo(self.dataset.elements(self.train), mean_atoms, degree)

    def coverage(self, label: str) -> dict[str, Any]:
        """Number of structures in each part that have the label `label`, and its names in the source files."""
        has = self.dataset.has(label)
        keys = sorted({s.keys[label] for s in self.dataset.manifest.sources if label in s.keys})
        return {"train": int(has[self.train].sum()), "validation": int(has[self.validation].sum()), "keys": keys}

    # Warnings for the user --------------------------------------------------------------------------------------------

    def warnings(self, info: DatasetInfo, references: References | None) -> Iterator[str]:
        """Yield warnings about the data, such as elements that only validation has, and undetermined references.

        `references` is None in pre-training.
        """
        unseen = [z for z in self.dataset.elements(self.validation) if z not in info.elements]
        if unseen:
            chunks = np.array_split(self.validation, 1 + len(self.validation) // 8192)
            n = sum(int(self.dataset.composition(chunk)[:, unseen].any(axis=1).sum()) for chunk in chunks)
            yield (
                f"Warning: {n:,} of {len(self.validation):,} validation structures have elements that are not in the "
                f"training part: {', '.join(chemical_symbols[z] for z in unseen)}. The model cannot know "
                "these elements, but the errors include these structures."
            )
        if references is not None:
            yield from _undetermined(references)
            yield from self._distance(references)

    def _distance(self, references: References) -> Iterator[str]:
        """Warn if labels of the training and validation part differ much in size."""
        ours, theirs = (
            label_rms(self.dataset, evenly(part, _LABEL_SAMPLE), references) for part in (self.train, self.validation)
        )
        far = [
            f"{name} {ours[name]:.3g} against {theirs[name]:.3g} {unit}"
            for name, (_, unit) in SIZES.items()
            if name in ours and name in theirs
            if max(ours[name], theirs[name]) > _FAR * min(ours[name], theirs[name]) + _NEGLIGIBLE
        ]
        if far:
            yield (
                "Warning: labels of the training and validation part differ much in size (rms: "
                f"{'; '.join(far)}). The split puts each group into one part as a whole; errors on one part say little "
                "about the other. Another data.validation_seed draws another split."
            )


def parts(dataset: PackedDataset, config: TrainConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of (training part, validation part); in an overfit check, both are the same few structures."""
    data = config.data
    drawn_by = config.seed if data.validation_seed is None else data.validation_seed
    both = split(dataset, data.validation, drawn_by, by=data.split_by, order_seed=config.seed)
    if data.overfit:
        few = np.sort(both.train[: data.overfit])
        return few, few
    return both.take(fraction=data.fraction, count=data.count), both.validation


def _undetermined(references: References) -> Iterator[str]:
    if references.rank < len(references.elements):
        yield (
            f"Element references: rank {references.rank} of {len(references.elements)} elements: the training part "
            "does not determine single references, only their sums over compositions like those in it."
        )
    elif references.shrinkage or references.undetermined:
        drawn = ", shrunk towards the mean energy per atom" if references.shrinkage else ""
        yield f"Element references{drawn}: {'; '.join(references.judged())}."
