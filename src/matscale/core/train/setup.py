"""Set up a training run from its configuration: data, split, references, scales, model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from matscale.core.data.graph import Graph
from matscale.core.data.loader import Augmentation, BatchBudget, Loader
from matscale.core.data.references import References
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError
from matscale.core.hosting.host import host
from matscale.core.model.activation_checkpointing import checkpoint_activations
from matscale.core.model.architecture import Architecture, ArchitectureConfig, DatasetInfo
from matscale.core.model.potential import Potential, Scales
from matscale.core.progress import Reporter
from matscale.core.runs.config import ArchitectureChoice, BatchConfig, BudgetConfig, TrainConfig, merged
from matscale.core.train.data import NO_REFERENCES, TrainingData
from matscale.core.train.loss import LabelObjective, Objective
from matscale.core.train.pretext import Pretext, pretext_of
from matscale.core.train.state import mix

DEFAULT_EPOCHS, DEFAULT_STRUCTURES = 10, 16
_HEAD = 0x48454144
"""Key that separates the random numbers of a pre-training head from all others of the same seed."""


def resolved(
    config: TrainConfig, architecture: Architecture, size: str | None = None, n_params: float | None = None
) -> TrainConfig:
    """Resolve a configuration: fill in all keys of architecture, budget and batch. Paths stay as given.

    `size` names a published configuration; `n_params` chooses a configuration with about that many parameters
    (`Architecture.ladder`). Keys of `config.architecture.config` override either. An overfit check has no dropout.
    Raises ConfigError for keys that the architecture does not know.
    """
    if size is not None and n_params is not None:
        raise ConfigError("--size and --params both choose a configuration: give one of them.")
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
    """Configuration, data, references and scales of a run before its first step.

    All of them follow from the configuration, bit for bit.
    """

    config: TrainConfig
    architecture: Architecture
    model_config: ArchitectureConfig
    data: TrainingData
    references: References
    scales: Scales
    info: DatasetInfo
    pretext: Pretext | None = None
    """Pre-training task that replaces the loss on labels; None for training on labels."""

    @property
    def dataset(self) -> PackedDataset:
        return self.data.dataset

    @property
    def train(self) -> NDArray[np.int64]:
        """Rows of the dataset that belong to the training part."""
        return self.data.train

    @property
    def validation(self) -> NDArray[np.int64]:
        return self.data.validation

    @property
    def graph(self) -> Graph:
        return self.data.graph

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the batches."""
        return torch.float64 if self.config.compute.precision == "fp64" else torch.float32

    def potential(self) -> Potential:
        """Make a potential with initial weights from the seed; in pre-training, with a head for the task."""
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
        """Error for an architecture that does not declare that it supports torch.compile.

        For forces by derivative, `Learner` refuses to compile.
        """
        return ConfigError(
            f"compute.compile = true: {self.architecture.name!r} does not declare that it supports torch.compile, "
            "which may compile again for each batch, or change the numbers. Leave compute.compile out. If you wrote "
            "the architecture and have compared the numbers, declare Architecture(..., compiles=True)."
        )

    def _for(self, pretext: Pretext, potential: Potential) -> Potential:
        """Add the head of a pre-training task to the potential. Its weights are drawn from a separate random stream."""
        example = self.dataset.batch(self.train[:1], self.graph)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix((self.config.seed, _HEAD)))
            return pretext.around(potential, self.architecture.name, example)

    def objective(self) -> Objective:
        """Objective that training minimises. Raises ConfigError for an unknown loss."""
        return LabelObjective(self.config.loss, host().loss) if self.pretext is None else self.pretext

    def training_loader(self) -> Loader:
        """Loader of shuffled training batches."""
        config, batch = self.config, self.config.batch
        return Loader(
            self.dataset,
            self.train,
            self.graph,
            BatchBudget(batch.structures, batch.atoms, batch.edges),
            seed=config.seed,
            augmentation=Augmentation(bool(config.augmentation.rotate), config.augmentation.reflect),
            noise=None if self.pretext is None else self.pretext.noise,
            dtype=self.dtype,
            isolated=self.config.data.isolated,
        )

    def validation_loader(self) -> Loader:
        """Loader of the validation part in a fixed order."""
        budget = BatchBudget(structures=self.config.evaluation.structures)
        return Loader(
            self.dataset,
            self.validation,
            self.graph,
            budget,
            shuffle=False,
            noise=None if self.pretext is None else self.pretext.noise,
            dtype=self.dtype,
            isolated=self.config.data.isolated,
        )

    def identity(self) -> dict[str, Any]:
        """Facts that processes must share to train on the same data in the same way."""
        return {"hash of the dataset": self.dataset.hash}

    def dataset_facts(self) -> dict[str, Any]:
        """Facts about the dataset, for run.json."""
        dataset = self.dataset
        return {
            "path": self.config.data.path,
            "hash": dataset.hash,
            "structures": len(dataset),
            "train": len(self.train),
            "validation": len(self.validation),
            "train_atoms": int(dataset.n_atoms[self.train].sum()),
            "elements": list(self.info.elements),
            "labels": {label: self.data.coverage(label) for label in ("energy", "forces", "stress")},
            "labels_by": dataset.manifest.labels_by,
        }


def prepare(config: TrainConfig, architecture: Architecture, progress: Reporter | None = None) -> Setup:
    """Open the data and measure the facts that the model needs. `config` must come from `resolved`.

    Raises DataError if a label that has a weight in the loss is missing in the whole training or validation part, or if
    the values of the stress suggest another unit than eV/Å³.
    """
    progress = progress or Reporter()
    model_config = architecture.config.parse(config.architecture.config, "architecture.config")
    data = TrainingData.open(config, architecture.graph(model_config), progress)
    pretext = pretext_of(config.pretrain, data.dataset, data.train)
    data.make_ready(config, pretext, progress)
    references = data.references() if pretext is None else NO_REFERENCES
    info = data.info()
    for warning in data.warnings(info, references if pretext is None else None):
        progress.said(warning)
    scales = pretext.scales if pretext else data.scales(references, architecture.derives_forces(model_config))
    return Setup(config, architecture, model_config, data, references, scales, info, pretext)
