"""Split of a dataset into training and validation part: by group, seeded, nested.

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
    """Split of a dataset: row indices of the two parts, which are disjoint and cover it."""

    train: NDArray[np.int64]
    """Training indices in a seeded order; `take` uses the first ones."""
    validation: NDArray[np.int64]
    """Validation indices, ascending."""

    def take(self, fraction: float | None = None, count: int | None = None) -> NDArray[np.int64]:
        """Training subset, ascending: `fraction` of the training part, or `count` structures; all by default.

        Smaller subsets are contained in larger ones. Raises ConfigError if the subset would be empty or too large.
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
    """Split a dataset: about the fraction `validation` is used for validation, by groups or by single structures.

    `order_seed` (default: `seed`) draws the order of the training part, which determines subsets. The result is a pure
    function of the dataset and the arguments. Raises ConfigError for a fraction outside (0, 1) or a negative seed, and
    DataError if the dataset is too small, or is a single group.

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
    """Mark the structures [n] of randomly drawn groups: those that fit into `wanted` structures, or the smallest."""
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
