"""Compare a trained run with its baselines: both are measured on the same structures.

The baselines of a run are fitted to its training data at first use, and kept in its folder as `baselines.json`. From
then on, they can be evaluated without the training data.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray

from matscale.core.baselines import (
    Baseline,
    evaluate_baselines,
    fit_baselines,
    parse_baselines,
    passes,
    plain_baselines,
)
from matscale.core.data.isolated import isolated
from matscale.core.data.loader import BatchBudget, Loader
from matscale.core.data.named.catalog import resolve
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError, DataError, NonFinitePrediction
from matscale.core.files import write_json
from matscale.core.inference.load import load
from matscale.core.inference.predict import floating
from matscale.core.inference.survey import Survey
from matscale.core.model.outputs import Outputs
from matscale.core.model.potential import Potential
from matscale.core.progress import SILENT, Reporter
from matscale.core.runs.info import OF, baselines_for, read_own
from matscale.core.runs.record import Run
from matscale.core.runs.status import unusable
from matscale.core.sealing import DamagedRecord, sealed
from matscale.core.train.data import parts
from matscale.core.train.evaluation import evaluate
from matscale.core.train.learner import named, suspects

if TYPE_CHECKING:
    from matscale.core.data.batch import AtomicBatch
    from matscale.core.data.store.packed import PackedDataset

FILE = "baselines.json"
CHUNK = 1024
"""Number of structures that `usable` checks at a time."""
Which = Literal["auto", "validation", "train", "all"]


def compare(
    run: Run,
    dataset: PackedDataset,
    which: Which = "auto",
    *,
    checkpoint: str | int = "best",
    batch: int = 32,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
) -> dict[str, dict[str, float]]:
    """Compare a run with its baselines: their metrics by name, first those of the architecture.

    `which` is explained in `rows_of`. Raises DataError if the baselines were never fitted and the training data are
    missing.
    """
    potential = load(run, checkpoint, device=device, dtype=dtype)
    rows, _ = usable(run, potential, dataset, rows_of(run, dataset, which))
    model = measure(potential, dataset, rows, batch, any_element=True)
    return {run.config.architecture.name: model, **evaluate_baselines(baselines_of(run), passes(dataset, rows))}


def measure(
    potential: Potential,
    dataset: PackedDataset,
    rows: NDArray[np.int64],
    batch: int = 32,
    *,
    any_element: bool = False,
    survey: Survey | None = None,
    progress: Reporter = SILENT,
) -> dict[str, float]:
    """Measure the metrics of `matscale.core.train.evaluation` on the structures at `rows`.

    `batch` structures are predicted at a time; a `survey` is given every batch. Raises DataError for a structure
    without neighbours if training had no such structures, for elements that were not in training, and if no structure
    has a label. Raises NonFinitePrediction for structures whose predictions are not finite.

    With `any_element`, all elements are accepted. This is meant for the validation part of the run's own dataset: this
    part is the same for any amount of training data, so it may have elements that a small training part lacks.
    """
    device, budget = potential.references.device, BatchBudget(structures=batch)
    loader = Loader(dataset, rows, potential.graph, budget, shuffle=False, dtype=floating(potential))

    def batches() -> Iterator[AtomicBatch]:
        for k, one in enumerate(loader.epoch(0)):
            progress.stage("Structures predicted", min(k * batch, len(rows)), len(rows))
            potential.check_neighbors(one)
            moved = one.to(device)
            if not any_element:
                potential.check_elements(moved)
            yield moved

    bad = list[int]()

    def look(_: object, given: tuple[AtomicBatch], outputs: Outputs) -> None:
        found = suspects(outputs, replace(given[0], energy=None, forces=None, stress=None))
        bad.extend(found)
        if survey is not None and not found:
            survey.add(outputs, given[0])

    handle = potential.register_forward_hook(look)
    try:
        values = evaluate(potential, batches())
    finally:
        handle.remove()
    if bad:
        raise NonFinitePrediction(
            f"{dataset.path}: the predictions for {len(bad):,} of {len(rows):,} structures are not finite: "
            f"{named(dataset, bad)}. Choose another checkpoint, or leave out such structures."
        )
    if not {"energy_mae", "forces_mae", "stress_mae"} & set(values) and not has_labels(dataset, rows):
        raise DataError(
            f"{dataset.path}: none of the {len(rows):,} structures has a label (energy, forces or stress), so there is "
            "nothing to compare predictions with. Pack data with labels (--key names them), or write predictions with "
            "`matscale predict`."
        )
    if wrong := [name for name, value in values.items() if not math.isfinite(value)]:
        raise NonFinitePrediction(
            f"{dataset.path}: the errors {', '.join(wrong)} are too large for a floating-point number. Choose another "
            "checkpoint, or leave out structures with extreme labels."
        )
    return values


def has_labels(dataset: PackedDataset, rows: NDArray[np.int64]) -> bool:
    """Whether a structure of the dataset at `rows` has a label."""
    return any(dataset.has(label)[rows].any() for label in ("energy", "forces", "stress"))


def usable(
    run: Run, potential: Potential, dataset: PackedDataset, rows: NDArray[np.int64], *, skip_invalid: bool = False
) -> tuple[NDArray[np.int64], list[str]]:
    """Choose the rows that the model of a run can predict. Returns them, and a text on each kind that is left out.

    The model cannot predict elements that were not in training, except on the run's own dataset. With `skip_invalid`,
    structures with such elements are left out, and so are structures without neighbours if training had none. Without
    `skip_invalid`, raises DataError that lists the structures with such elements. Also raises DataError if no row is
    left.
    """
    kept, alone, foreign = [], [], []
    unseen = ~potential.known.cpu().numpy()
    elements = np.zeros(len(unseen), dtype=bool)
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        counts = dataset.composition(chunk)
        has_unseen = np.zeros(len(chunk), dtype=bool) if is_own(run, dataset) else counts[:, unseen].any(axis=1)
        elements |= (counts[has_unseen] > 0).any(axis=0)
        lonely = np.zeros(len(chunk), dtype=bool)
        if skip_invalid and potential.graph.has_edges and not potential.isolated:
            lonely[~has_unseen] = isolated(dataset.batch(chunk[~has_unseen], potential.graph)).numpy()
        foreign.append(chunk[has_unseen])
        alone.append(chunk[lonely])
        kept.append(chunk[~has_unseen & ~lonely])
    names = ", ".join(chemical_symbols[z] for z in np.flatnonzero(elements & unseen))
    found = (
        (np.concatenate([*foreign, rows[:0]]), f"with elements that the model was not trained on: {names}; rows "),
        (
            np.concatenate([*alone, rows[:0]]),
            f"in which no atom has a neighbour within {potential.graph.cutoff:g} Å; rows ",
        ),
    )
    left_out = [f"{len(bad):,} of {len(rows):,} structures {why}{ranges(bad)}" for bad, why in found if len(bad)]
    remaining = np.concatenate([*kept, rows[:0]])
    if left_out and not skip_invalid:
        known = ", ".join(chemical_symbols[z] for z in potential.elements)
        raise DataError(
            f"{dataset.path}: cannot be measured: {'; '.join(left_out)}. The model knows {known}. Pass --skip-invalid "
            "to leave these structures out."
        )
    if not len(remaining):
        raise DataError(f"{dataset.path}: no structure is left to measure on ({'; '.join(left_out)}).")
    return remaining, left_out


def ranges(rows: NDArray[np.int64], listed: int = 40) -> str:
    """Format row numbers as ranges: `0-31, 40`.

    At most `listed` ranges are given, then the number of further rows.

    >>> ranges(np.array([4, 0, 1, 2, 3, 40]))
    '0-4, 40'
    """
    rows = np.sort(rows)
    blocks = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    texts = [f"{b[0]}-{b[-1]}" if len(b) > 1 else f"{b[0]}" for b in blocks]
    more = f" and {sum(map(len, blocks[listed:])):,} more" if len(texts) > listed else ""
    return ", ".join(texts[:listed]) + more


def rows_of(run: Run, dataset: PackedDataset, which: Which = "auto") -> NDArray[np.int64]:
    """Rows of `dataset` on which to measure a run: all, or those of the training or validation part.

    `auto` means the validation part if the run was trained on this dataset, and all rows of any other dataset. Raises
    ConfigError for the `train` or `validation` part of a dataset that the run was not trained on.
    """
    if which == "all":
        return np.arange(len(dataset))
    if is_own(run, dataset):
        train, validation = parts(dataset, run.config)
        return train if which == "train" else validation
    if which == "auto":
        return np.arange(len(dataset))
    raise ConfigError(
        f"{dataset.path}: is not the dataset that {run.path} was trained on, so it has no {which} part of that run. "
        "Leave out --split to measure on all of it."
    )


def is_own(run: Run, dataset: PackedDataset) -> bool:
    """Whether the run was trained on this dataset, judged by the hash of the dataset."""
    return bool(run.info.get("dataset", {}).get("hash") == dataset.hash)


def without_dataset(run: Run) -> str:
    """Message on a run without a dataset, which was imported or ended before its training began; empty for others."""
    if "imported" in run.info:
        return (
            f"{run.path}: has no dataset of its own, because it was not trained here. "
            "Name one with --data (Python: data=)."
        )
    return "" if "dataset" in run.info else unusable(run.path, "ended before it had read its dataset")


def dataset_of(run: Run, progress: Reporter = SILENT) -> PackedDataset:
    """Open the dataset that the run was trained on. A relative path starts from the working directory.

    Raises DataError if the dataset is missing or has changed, or if the run has none.
    """
    if message := without_dataset(run):
        raise DataError(message)
    go = "Go to the directory in which the run was trained, or name the dataset: --data (Python: data=)."
    try:
        dataset = PackedDataset.open(resolve(run.config.data.path, progress), progress=progress)
    except DataError as error:
        raise DataError(f"{run.path}: its dataset is not available. {error} {go}") from None
    if not is_own(run, dataset):
        raise DataError(f"{dataset.path}: is not the dataset that {run.path} was trained on. {go}")
    return dataset


def baselines_of(run: Run) -> dict[str, Baseline]:
    """Return the baselines of a run.

    They are read from the folder of the run. If they are not there, they are fitted to its training part now and, if
    possible, stored. Raises DataError if they have to be fitted and the dataset is missing or has changed.
    """
    path, of = run.path / FILE, baselines_for(run.info, run.config.plain())
    if path.exists():
        try:
            return parse_baselines(read_own(path, of))
        except DamagedRecord as error:
            warnings.warn(f"{error} The baselines are fitted again.", stacklevel=2)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            raise DataError(
                f"{path}: is damaged ({error!r}). Delete it; the baselines are then fitted again."
            ) from None
    dataset = dataset_of(run)
    fitted = fit_baselines(dataset, parts(dataset, run.config)[0])
    if os.access(run.path, os.W_OK):
        write_json(path, sealed({**plain_baselines(fitted), OF: of}))
    return fitted
