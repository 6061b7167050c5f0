"""Pre-training on tasks that need no labels; `--from` starts a training from the result.

Each task is a `Pretext` (see `base`), chosen by the key `pretrain`. A new task needs a class, and a line in this file.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from matscale.core.data.store.packed import PackedDataset
from matscale.core.runs.config import PretrainConfig
from matscale.core.train.pretext.base import Pretext
from matscale.core.train.pretext.denoise import Denoise
from matscale.core.train.pretext.distances import Distances

PRETEXTS: dict[str, type[Pretext]] = {"denoise": Denoise, "distances": Distances}

__all__ = ["PRETEXTS", "Pretext", "pretext_of"]


def pretext_of(config: PretrainConfig | None, dataset: PackedDataset, rows: NDArray[np.int64]) -> Pretext | None:
    """Pre-training task of a run that trains on the `rows` of the dataset; None if the run trains on labels."""
    return None if config is None else PRETEXTS[config.task].of(config, dataset, rows)
