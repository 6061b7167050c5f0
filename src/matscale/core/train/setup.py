"""Set up a training run from its configuration: data, split, references, scales, model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from matscale.core.data.graph import Graph
from matscale.core.data.isolated import check_rows
from matscale.core.data.loader import Augmentation, Budget, Loader
from matscale.core.data.named.catalog import resolve as locate
from matscale.core.data.references import SIZES, References, evenly, fit_references, label_rms, scales
from matscale.core.data.split import split
from matscale.core.data.store.edge_cache import open_cache
from matscale.core.data.store.edge_cache_build import build_cache
from matscale.core.data.store.packed import PackedDataset
from matscale.core.data.stress_units import check_stress
from matscale.core.errors import ConfigError, DataError
from matscale.core.hosting.host import host
from matscale.core.model.activation_checkpointing import checkpoint_activations
from matscale.core.model.architecture import Architecture, ArchitectureConfig, DatasetInfo
from matscale.core.model.potential import Potential, Scales
from matscale.core.progress import Progress
from matscale.core.runs.config import (
    LABEL_OF,
    TERMS,
    ArchitectureChoice,
    BatchConfig,
    BudgetConfig,
    TrainConfig,
    merged,
)
from matscale.core.train.distributed import World
from matscale.core.train.loss import Goal, Objective
from matscale.core.train.pretext import Pretext, pretext_of
from matscale.core.train.state import mix

DEFAULT_EPOCHS, DEFAULT_STRUCTURES = 10, 16
_FAR, _NEGLIGIBLE = 3.0, 1e-3
"""Ratio, and difference in eV, eV/Å and eV/Å³, from which labels of two parts are said to differ in size."""
_LABEL_SAMPLE = 4096
"""Structures of each part whose labels are compared."""
_DEGREE_SAMPLE = 128
"""Structures on whose graphs the mean number of neighbours is measured."""
_HEAD = 0x48454144
"""Keeps the random numbers of a pre-training's head apart from others of the seed."""
NO_REFERENCES = References(np.zeros(119), (), 0, 0.0, 0)


def resolved(
    config: TrainConfig, architecture: Architecture, size: str | None = None, n_params: float | None = None
) -> TrainConfig:
    """Every key written out: the architecture's whole configuration, the budget, the batch. Paths stay as given.

    `size` names a published configuration, `n_params` a rung of the ladder; keys of `config.architecture.config` go
    above either. An overfit check has no dropout. Raises ConfigError for keys that the architecture does not know.
    """
    if size is not None and n_params is not None:
        raise ConfigError("--size and --params are two ways to choose a configuration: give one of them.")
    base = architecture.size(size) if size else architecture.ladder(int(n_params)) if n_params else None
    given = merged(base.plain() if base else {}, config.architecture.config)
    if config.data.overfit:
        given |= {name: 0.0 for name in architecture.config.model_fields if "drop" in name}
    full = architecture.config.parse(given, f"architecture.config of {architecture.name}").plain()
    budget, batch = config.budget, config.batch
    if not budget.plain():
        budget = BudgetConfig(epochs=DEFAULT_EPOCHS)
    if batch.structures is batch.atoms is batch.edges is None:
        batch = BatchConfig(structures=DEFAULT_STRUCTURES, accumulate=batch.accumulate)
    augmentation = config.augmentation
    if augmentation.rotate is None:
        augmentation = augmentation.model_copy(update={"rotate": architecture.rotates and not config.data.overfit})
    choice = ArchitectureChoice(name=config.architecture.name, config=full)
    sections = {"budget": budget, "batch": batch, "augmentation": augmentation}
    return config.model_copy(update={"architecture": choice, **sections})


@dataclass(frozen=True)
class Setup:
    """Parts of a run before it starts. The same configuration gives the same parts, bit for bit."""

    config: TrainConfig
    architecture: Architecture
    model_config: ArchitectureConfig
    dataset: PackedDataset
    train: NDArray[np.int64]
    """Rows of the dataset in the training part."""
    validation: NDArray[np.int64]
    graph: Graph
    references: References
    scales: Scales
    info: DatasetInfo
    pretext: Pretext | None = None
    """Pre-training task that replaces the loss on labels."""

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the batches."""
        return torch.float64 if self.config.compute.precision == "fp64" else torch.float32

    def potential(self) -> Potential:
        """A new potential, with weights that depend on the seed; in pre-training, with a head for the task."""
        references = torch.from_numpy(self.references.values)
        potential = Potential.of(
            self.architecture,
            self.model_config,
            self.info,
            self.config.seed,
            references,
            self.scales,
            self.config.data.isolated,
        )
        potential.zero_net_force = self.config.net_force == "removed"
        if self.pretext is not None:
            potential = self._for(self.pretext, potential)
        if self.config.compute.checkpoint_activations:
            checkpoint_activations(potential.model, self.architecture.name)
        if self.config.compute.compile and not (self.architecture.compiles or potential.derive):
            raise self._uncompiled()
        return potential.double() if self.dtype == torch.float64 else potential

    def _uncompiled(self) -> ConfigError:
        """Error of an architecture that does not claim to compile. `Learner` refuses forces by derivative for all."""
        return ConfigError(
            f"compute.compile = true: {self.architecture.name!r} does not claim to compile; torch may begin anew for "
            "each batch, or give other numbers. Leave it out for this architecture. If it is yours and you have "
            "compared the numbers, say Architecture(..., compiles=True)."
        )

    def _for(self, pretext: Pretext, potential: Potential) -> Potential:
        """The potential with a head for the pretext, whose weights come from a random stream of its own."""
        example = self.dataset.batch(self.train[:1], self.graph)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix((self.config.seed, _HEAD)))
            return pretext.around(potential, self.architecture.name, example)

    def goal(self) -> Goal:
        """The objective that training minimises. Raises ConfigError for an unknown loss."""
        return Objective(self.config.loss, host().loss) if self.pretext is None else self.pretext

    def training_loader(self, world: World) -> Loader:
        """Shuffled batches of the training part, this process's share."""
        config, batch = self.config, self.config.batch
        return Loader(
            self.dataset,
            self.train,
            self.graph,
            Budget(batch.structures, batch.atoms, batch.edges),
            seed=config.seed,
            augmentation=Augmentation(bool(config.augmentation.rotate), config.augmentation.reflect),
            noise=None if self.pretext is None else self.pretext.noise,
            dtype=self.dtype,
            rank=world.rank,
            world_size=world.size,
            isolated=self.config.data.isolated,
        )

    def validation_loader(self, world: World) -> Loader:
        """The validation part in a fixed order, each structure once, over all processes."""
        budget = Budget(structures=self.config.evaluation.structures)
        return Loader(
            self.dataset,
            self.validation,
            self.graph,
            budget,
            shuffle=False,
            noise=None if self.pretext is None else self.pretext.noise,
            dtype=self.dtype,
            rank=world.rank,
            world_size=world.size,
            isolated=self.config.data.isolated,
        )

    def _coverage(self, label: str) -> dict[str, Any]:
        """How many structures have a label, and the keys under which their sources had it."""
        has = self.dataset.has(label)
        keys = sorted({s.keys[label] for s in self.dataset.manifest.sources if label in s.keys})
        return {"train": int(has[self.train].sum()), "validation": int(has[self.validation].sum()), "keys": keys}

    def dataset_facts(self) -> dict[str, Any]:
        """Facts on the dataset for run.json."""
        dataset = self.dataset
        return {
            "path": self.config.data.path,
            "hash": dataset.hash,
            "structures": len(dataset),
            "train": len(self.train),
            "validation": len(self.validation),
            "train_atoms": int(dataset.n_atoms[self.train].sum()),
            "elements": list(self.info.elements),
            "labels": {label: self._coverage(label) for label in ("energy", "forces", "stress")},
            "labels_by": dataset.manifest.labels_by,
        }


def prepare(config: TrainConfig, architecture: Architecture, progress: Progress | None = None) -> Setup:
    """Open the data and measure what the model must know of them. `config` is resolved.

    Raises DataError if a label with a weight in the loss is missing from the whole training or validation part, or if
    the stress looks like another unit than eV/Å³.
    """
    progress = progress or Progress()
    model_config = architecture.config.parse(config.architecture.config, "architecture.config")
    graph = architecture.graph(model_config)
    dataset = PackedDataset.open(locate(config.data.path, progress.stage), config.data.in_memory, progress.stage)
    train, validation = parts(dataset, config)
    pretext = pretext_of(config.pretrain, dataset, train)
    if pretext is None:
        _check_labels(dataset, train, validation, config)
    if config.data.cache_graphs and graph.has_edges and (pretext is None or pretext.noise is None):
        _cache_edges(dataset, graph, progress)
    if not config.data.isolated and (cache := open_cache(dataset, graph)):
        check_rows(dataset, np.concatenate([train, validation]), cache.n_edges, graph)
    references = _references(dataset, train) if pretext is None else NO_REFERENCES
    info = _info(dataset, train, graph)
    _say_unseen(dataset, validation, info, progress)
    if pretext is None:
        _say_references(references, progress)
        _say_distance(dataset, train, validation, references, progress)
    return Setup(
        config,
        architecture,
        model_config,
        dataset,
        train,
        validation,
        graph,
        references,
        pretext.scales if pretext else _scales(dataset, train, references, architecture.derives_forces(model_config)),
        info,
        pretext,
    )


def parts(dataset: PackedDataset, config: TrainConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(training, validation) rows; the same few structures for both in an overfit check."""
    data = config.data
    drawn_by = config.seed if data.validation_seed is None else data.validation_seed
    both = split(dataset, data.validation, drawn_by, by=data.split_by, order_seed=config.seed)
    if data.overfit:
        few = np.sort(both.train[: data.overfit])
        return few, few
    return both.take(fraction=data.fraction, count=data.count), both.validation


def _check_labels(
    dataset: PackedDataset, train: NDArray[np.int64], validation: NDArray[np.int64], config: TrainConfig
) -> None:
    for name, rows in (("training", train), ("validation", validation)):
        for label in sorted(config.loss.needs()):
            if not dataset.has(label)[rows].any():
                terms = [t for t in TERMS if LABEL_OF[t] == label and config.loss.term(t).weight > 0]
                off = " ".join(f"--set loss.{term}.weight=0" for term in terms)
                raise DataError(
                    f"{dataset.path}: none of the {len(rows)} structures of the {name} part has the label {label!r}, "
                    f"which the loss weighs. Pack data that have it, or train without: {off}"
                )
    if config.data.check_stress_unit and "stress" in config.loss.needs():
        check_stress(dataset, train)


def _say_unseen(dataset: PackedDataset, validation: NDArray[np.int64], info: DatasetInfo, progress: Progress) -> None:
    from ase.data import chemical_symbols

    unseen = [z for z in dataset.elements(validation) if z not in info.elements]
    if unseen:
        chunks = np.array_split(validation, 1 + len(validation) // 8192)
        n = sum(int(dataset.composition(chunk)[:, unseen].any(axis=1).sum()) for chunk in chunks)
        progress.said(
            f"Warning: {n:,} of {len(validation):,} validation structures hold elements without training structures: "
            f"{', '.join(chemical_symbols[z] for z in unseen)}. Predictions for them are guesses, and count."
        )


def _say_references(references: References, progress: Progress) -> None:
    if references.rank < len(references.elements):
        progress.said(
            f"Element references: rank {references.rank} of {len(references.elements)} elements; only sums over "
            "compositions like those of the training part are determined."
        )
    elif references.shrinkage or references.undetermined:
        drawn = ", drawn towards the mean energy per atom" if references.shrinkage else ""
        progress.said(f"Element references{drawn}: {'; '.join(references.judged())}.")


def _say_distance(
    dataset: PackedDataset,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    references: References,
    progress: Progress,
) -> None:
    """Warn if the labels of one part are of another size than those of the other: it asks about other materials."""
    ours, theirs = (label_rms(dataset, evenly(part, _LABEL_SAMPLE), references) for part in (train, validation))
    far = [
        f"{name} {ours[name]:.3g} against {theirs[name]:.3g} {unit}"
        for name, (_, unit) in SIZES.items()
        if name in ours and name in theirs
        if max(ours[name], theirs[name]) > _FAR * min(ours[name], theirs[name]) + _NEGLIGIBLE
    ]
    if far:
        progress.said(
            f"Warning: training and validation part are far from each other (rms of the labels: {'; '.join(far)}). "
            "The split puts whole groups into either part; errors on the one say little of the other. Another "
            "data.validation_seed draws another split."
        )


def _cache_edges(dataset: PackedDataset, graph: Graph, progress: Progress) -> None:
    if not os.access(dataset.path, os.W_OK):
        progress.said(f"{dataset.path} cannot be written to: neighbour lists are made anew for every batch.")
        return
    build_cache(dataset, graph, progress=lambda done, total: progress.stage("Neighbour lists", done, total))


def _references(dataset: PackedDataset, train: NDArray[np.int64]) -> References:
    """Element references; zero for data without energies, which train forces or stress alone."""
    if dataset.has("energy")[train].any():
        return fit_references(dataset, train)
    return NO_REFERENCES


def _scales(dataset: PackedDataset, train: NDArray[np.int64], references: References, derives: bool) -> Scales:
    """Direct models: the spread of the referenced energy per atom, rms of forces and stress. Gradient models have one
    scale, in eV: that which makes derived forces right, forces rms × 1 Å (as NequIP does, arXiv:2101.03164)."""
    measured = scales(dataset, train, references)
    has_forces = bool(dataset.has("forces")[train].any())
    energy = measured["forces"] if derives and has_forces else measured["energy_per_atom"]
    return Scales(energy, measured["forces"], measured["stress"])


def _info(dataset: PackedDataset, train: NDArray[np.int64], graph: Graph) -> DatasetInfo:
    degree = 0.0
    if graph.has_edges:
        sample = dataset.batch(evenly(train, _DEGREE_SAMPLE), graph)
        degree = sample.n_edges / sample.n_atoms
    return DatasetInfo(dataset.elements(train), float(dataset.n_atoms[train].mean()), degree)
