"""Split of a dataset into a training part and a validation part.

Structures of one group (a trajectory, or a reduced formula) stay together, so that validation is on materials that were
not in training. Smaller training sets are subsets of larger ones, and all have the same validation part, so that losses
for different amounts of data can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from matscale.core.errors import ConfigError, DataError


class Grouped(Protocol):
    """Interface of a dataset that can be split: its length and the group of each structure."""

    @property
    def groups(self) -> NDArray[np.int64]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Split:
    """Row numbers of the training and the validation part. Every structure is in exactly one of the parts."""

    train: NDArray[np.int64]
    """Rows of the training part, in a random order that depends on the seed; `take` uses the first ones."""
    validation: NDArray[np.int64]
    """Rows of the validation part, ascending."""

    def take(self, fraction: float | None = None, count: int | None = None) -> NDArray[np.int64]:
        """Rows of a subset of the training part, ascending: a `fraction` of it, or `count` structures.

        Without arguments, all rows of the training part. Smaller subsets are contained in larger ones. Raises
        ConfigError if the subset would be empty or too large.
        """
        if fraction is not None and count is not None:
            raise ConfigError("Give a fraction or a count of training structures, not both.")
        if fraction is not None:
            if not 0 < fraction <= 1:
                raise ConfigError(f"fraction = {fraction}: must be above 0 and at most 1.")
            count = max(1, round(fraction * len(self.train)))
        count = len(self.train) if count is None else count
        if not 0 < count <= len(self.train):
            raise ConfigError(f"count = {count}: must be from 1 to {len(self.train)}, the size of the training part.")
        return np.sort(self.train[:count])


def split(
    dataset: Grouped,
    validation: float,
    seed: int,
    by: Literal["group", "structure"] = "group",
    order_seed: int | None = None,
) -> Split:
    """Split a dataset into a training and a validation part, drawn at random.

    About the fraction `validation` of the structures is used for validation. `by` says whether whole groups or single
    structures are drawn. `order_seed` (default: `seed`) draws the order of the training part, which determines the
    subsets of `Split.take`. The result is a pure function of the dataset and the arguments. Raises ConfigError for a
    fraction outside (0, 1) or a negative seed, and DataError if the dataset is too small or has only one group.

    >>> class Little:  # a dataset of ten structures in five groups
    ...     groups = np.repeat(np.arange(5), 2)
    ...     def __len__(self): return 10
    >>> parts = split(Little(), validation=0.2, seed=0)
    >>> len(parts.train), len(parts.validation), set(parts.take(count=2)) <= set(parts.take(count=5))
    (8, 2, True)
    """
    if not 0 < validation < 1:
        raise ConfigError(f"validation = {validation}: must be between 0 and 1, such as 0.1.")
    if by not in ("group", "structure"):
        raise ConfigError(f"split by {by!r}: must be 'group' or 'structure'.")
    if seed < 0 or (order_seed is not None and order_seed < 0):
        raise ConfigError(f"seed = {min(seed, seed if order_seed is None else order_seed)}: must not be negative.")
    n = len(dataset)
    if n < 2:
        raise DataError(f"A dataset of {n} structures cannot be split into training and validation. Use 2 or more.")
    rng = np.random.default_rng([seed, 0x5917])
    order = rng.permutation(n)
    wanted = min(max(1, round(validation * n)), n - 1)
    if by == "structure":
        aside = np.zeros(n, dtype=bool)
        aside[order[:wanted]] = True
    else:
        aside = _whole_groups(dataset.groups, wanted, rng)
    if order_seed is not None and order_seed != seed:
        order = np.random.default_rng([order_seed, 0x5917]).permutation(n)
    return Split(train=order[~aside[order]], validation=np.flatnonzero(aside))


def _whole_groups(groups: NDArray[np.int64], wanted: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw whole groups at random, at most `wanted` structures: an array [n_structures] that is True in them.

    If every group has more than `wanted` structures, the smallest group is taken.
    """
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise DataError(
            "All structures are of one group (one trajectory or formula): a split by group would leave training or "
            "validation empty. Split by structure (`--set data.split_by=structure`), but note that the two parts are "
            "then related."
        )
    chosen, room = np.zeros(len(sizes), dtype=bool), wanted
    for group in rng.permutation(len(sizes)):
        if sizes[group] <= room:
            chosen[group] = True
            room -= sizes[group]
            if not room:
                break
    if not chosen.any():  # every group is larger than the wanted part: the smallest comes closest
        chosen[np.argmin(sizes)] = True
    return chosen[member]
