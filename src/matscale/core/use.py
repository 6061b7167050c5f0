"""Use what was trained: a run folder as a Potential, as an ASE calculator, and against its own validation part.

Nothing in a run is executed: its architecture is looked up by name among the installed plugins, its weights are numbers
in safetensors files whose digests are checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from matscale.core.architecture import Architecture, DatasetInfo
from matscale.core.errors import ConfigError, DataError, MatscaleError, PluginError
from matscale.core.manager import host
from matscale.core.potential import Potential
from matscale.core.predict import floating
from matscale.core.train import checkpoint as checkpoints
from matscale.core.train.record import Run

if TYPE_CHECKING:
    from matscale.core.calculator import PotentialCalculator
    from matscale.core.data.batch import AtomicBatch
    from matscale.core.data.packed import PackedDataset

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def load(
    run: Run | Path | str,
    checkpoint: str | int = "best",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
) -> Potential:
    """The trained Potential of a run, in evaluation mode.

    `checkpoint` is `best` (the lowest validation loss; the last one if there was no validation yet), `last`, or a step.
    The weights are the moving average where the run kept one. `dtype` float32 or float64; by default that in which the
    run kept its weights. The Potential says in `graph` which edges its batches need:

    ```python
    potential = matscale.load("runs/first")
    outputs = potential(collate(structures, potential.graph))
    ```

    Raises ConfigError for a folder that is no run or a checkpoint that does not exist, PluginError, with what to
    install, if the run's architecture cannot be had, MatscaleError if the checkpoint is damaged.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    architecture = architecture_of(run)
    config = architecture.config.parse(run.config.architecture.config, f"{run.path}: architecture.config")
    if "dataset_info" not in run.info:
        raise ConfigError(
            f"{run.path}: run.json has no dataset_info: the run ended before its first step. Train again."
        )
    info = DatasetInfo.parse(run.info["dataset_info"])
    weights = _weights(run, resolve_step(run, checkpoint))
    potential = Potential.of(architecture, config, info, seed=run.config.seed)
    if any(w.dtype == torch.float64 for name, w in weights.items() if name.startswith("model.")):
        potential.model.double()
    try:
        potential.load_state_dict(weights)
    except RuntimeError as error:
        raise PluginError(
            f"{run.path}: the weights do not fit the architecture {architecture.name!r} as it is installed. "
            f"{_trained_with(run)} {error}"
        ) from None
    if dtype is not None:
        # References and scales stay float64: only the model computes in `dtype`.
        potential.model.to(_dtype(dtype))
    return potential.to(device).eval().requires_grad_(False)


def calculator(
    run: Run | Path | str,
    checkpoint: str | int = "best",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
) -> PotentialCalculator:
    """An ASE calculator that drives the trained Potential of a run; arguments and errors are those of `load`."""
    from matscale.core.calculator import PotentialCalculator

    return PotentialCalculator(load(run, checkpoint, device=device, dtype=dtype))


def architecture_of(run: Run) -> Architecture:
    """The architecture of a run, by name. Raises PluginError that says what to install."""
    try:
        return host().architecture(run.config.architecture.name)
    except MatscaleError as error:
        raise PluginError(
            f"{run.path}: its architecture {run.config.architecture.name!r} cannot be had. {_trained_with(run)} {error}"
        ) from None


def _trained_with(run: Run) -> str:
    origin = run.info.get("architecture", {})
    name, version = origin.get("distribution"), origin.get("version")
    return f"The run was trained with {name} {version}: pip install {name}=={version}." if name and version else ""


def resolve_step(run: Run, checkpoint: str | int) -> int:
    """The step of `best`, `last` or a number. Raises ConfigError that names the checkpoints that exist."""
    steps = run.checkpoints()
    if not steps:
        raise ConfigError(f"{run.path}: has no checkpoint yet. Train on with --resume.")
    named = {"best": run.best if run.best is not None else run.last, "last": run.last}
    if checkpoint in named:
        step = named[str(checkpoint)]
        return steps[-1] if step is None else step
    if str(checkpoint).isdecimal() and int(checkpoint) in steps:
        return int(checkpoint)
    raise ConfigError(
        f"{run.path}: has no checkpoint {checkpoint!r}. Known: best, last, {', '.join(str(s) for s in steps)}."
    )


def _weights(run: Run, step: int) -> dict[str, torch.Tensor]:
    try:
        return checkpoints.load_weights(checkpoints.folder_of(run.checkpoint_folder, step))
    except checkpoints.DamagedCheckpoint as error:
        others = ", ".join(str(s) for s in run.checkpoints() if s != step)
        hint = f"Choose another checkpoint: {others}." if others else "There is no other one: train again."
        raise MatscaleError(f"{error} {hint}") from None


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    for name, known in DTYPES.items():
        if dtype in (name, known):
            return known
    raise ConfigError(f"dtype = {dtype!r}: must be one of {', '.join(DTYPES)}.")


@dataclass(frozen=True)
class Parts:
    """What of a dataset a run is measured on, and what its baselines may learn from."""

    measured: NDArray[np.int64]
    trained_on: NDArray[np.int64] | None
    """Indices of the run's training structures; None where the dataset is not the run's."""


def parts(run: Run, dataset: PackedDataset, which: Literal["auto", "validation", "train", "all"] = "auto") -> Parts:
    """The structures of `dataset` that `which` means for this run.

    `auto`: the run's validation part if this is the run's dataset (by its hash), else all. Raises ConfigError for the
    `train` or `validation` part of a dataset that the run was not trained on.
    """
    everything = np.arange(len(dataset))
    if run.info.get("dataset", {}).get("hash") != dataset.hash:
        if which in ("train", "validation"):
            raise ConfigError(
                f"{dataset.path}: is not the dataset that {run.path} was trained on, so it has no {which} part of that "
                "run. Leave out --split to measure on all of it."
            )
        return Parts(everything, None)
    train, validation = run_split(run, dataset)
    return Parts({"train": train, "all": everything}.get(which, validation), train)


def run_split(run: Run, dataset: PackedDataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(training, validation) structures of a run, as its configuration gives them."""
    from matscale.core.data.split import split

    data = run.config.data
    both = split(dataset, data.validation, run.config.seed, by=data.split_by)
    train = both.take(data.fraction, data.count)
    if data.overfit:
        return train[: data.overfit], train[: data.overfit]
    return train, both.validation


def training_part(run: Run) -> tuple[PackedDataset, NDArray[np.int64]]:
    """The run's dataset and its training structures. Raises DataError if the dataset is gone or is another one now."""
    from matscale.core.data.catalog import resolve
    from matscale.core.data.packed import PackedDataset

    dataset = PackedDataset.open(resolve(run.config.data.path))
    if dataset.hash != run.info.get("dataset", {}).get("hash"):
        raise DataError(f"{dataset.path}: is not the dataset any more that {run.path} was trained on.")
    return dataset, run_split(run, dataset)[0]


def evaluate_potential(
    potential: Potential, dataset: PackedDataset, indices: NDArray[np.int64], batch: int = 32
) -> dict[str, float]:
    """Metrics of `matscale.core.evaluation.evaluate` on the structures `indices`, in batches of `batch`.

    Raises DataError that names the elements of these structures that were not in training.
    """
    from matscale.core.data.loader import Budget, Loader
    from matscale.core.evaluation import evaluate

    dtype, device = floating(potential), potential.references.device

    def batches() -> Iterator[AtomicBatch]:
        loader = Loader(dataset, indices, potential.graph, Budget(structures=batch), shuffle=False, dtype=dtype)
        for cpu_batch in loader.epoch(0):
            potential.check_elements(on_device := cpu_batch.to(device))
            yield on_device

    return evaluate(potential, batches())
