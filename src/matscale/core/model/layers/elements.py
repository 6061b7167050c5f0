"""Refusal of elements that have no row in the embeddings of a model."""

from __future__ import annotations

import torch
from torch import Tensor

from matscale.core.errors import ConfigError, DataError
from matscale.core.model.architecture import DatasetInfo


def check_data_elements(name: str, info: DatasetInfo, largest: int) -> None:
    """Raise ConfigError if data hold an element above `largest`, the last one in the embeddings of architecture `name`.

    `DatasetInfo.any()`, the data of a model that is built to be counted, passes.
    """
    heaviest = max(info.elements)
    if info != DatasetInfo.any() and heaviest > largest:
        raise ConfigError(
            f"{name}: the data contain element {heaviest}, but max_atomic_number = {largest}. "
            f"Set it to {heaviest} or more (118 covers all), or leave those structures out when packing."
        )


def check_batch_elements(name: str, numbers: Tensor, largest: int) -> None:
    """Raise DataError if `numbers` [n_atoms] hold an element above `largest`. On a GPU, this waits for it once."""
    if torch.compiler.is_compiling():
        return
    heaviest = int(numbers.max())
    if heaviest > largest:
        raise DataError(
            f"{name}: the batch contains element {heaviest}, but the embeddings end at max_atomic_number = "
            f"{largest}. Leave such structures out, or train a model with a higher one."
        )
