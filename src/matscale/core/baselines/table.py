"""All baselines together: fit them, evaluate them like models, convert them to and from JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matscale.core.baselines.base import Baseline
from matscale.core.baselines.nearest import NearestBaseline
from matscale.core.baselines.simple import CompositionBaseline, MeanBaseline, ZeroBaseline
from matscale.core.data.batch import AtomicBatch
from matscale.core.errors import DataError, did_you_mean
from matscale.core.train.evaluation import evaluate

if TYPE_CHECKING:
    from matscale.core.data.store.packed import PackedDataset
    from matscale.core.runs.config import LossConfig

BASELINES: dict[str, type[Baseline]] = {
    baseline.name: baseline for baseline in (ZeroBaseline, MeanBaseline, CompositionBaseline, NearestBaseline)
}
"""Baselines by name. The first uses the least information."""


def fit_baselines(dataset: PackedDataset, indices: NDArray[np.int64]) -> dict[str, Baseline]:
    """Fit every baseline to the structures at `indices`. Raises DataError if there are none.

    Structures are added in the order of the dataset, whatever the order of `indices`. Therefore the same training part
    gives the same baselines to the last bit.
    """
    if len(indices) == 0:
        raise DataError(
            f"{dataset.path}: the training part is empty, so no baseline can be fitted. Use a smaller validation share."
        )
    indices = np.sort(indices)
    return {name: baseline.fit(dataset, indices) for name, baseline in BASELINES.items()}


def evaluate_baselines(
    baselines: Mapping[str, Baseline],
    batches: Callable[[], Iterable[AtomicBatch]],
    loss: LossConfig | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluate baselines: the metrics of `matscale.core.train.evaluation` by the name of each baseline.

    `batches` is a function; each call starts a new pass over the data.
    """
    return {name: evaluate(baseline, batches(), loss) for name, baseline in baselines.items()}


def plain_baselines(baselines: Mapping[str, Baseline]) -> dict[str, Any]:
    """Convert baselines to JSON-ready values."""
    return {name: baseline.plain() for name, baseline in baselines.items()}


def parse_baselines(values: Mapping[str, Any]) -> dict[str, Baseline]:
    """Restore baselines from the result of `plain_baselines`. Raises DataError for an unknown name."""
    for name in values:
        if name not in BASELINES:
            raise DataError(f"No baseline is called {name!r}. {did_you_mean(name, BASELINES)}")
    return {name: BASELINES[name].parse(state) for name, state in values.items()}
