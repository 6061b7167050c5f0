"""Offsets of groups: how much the losses of each group differ from one law that is fitted to all groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from matscale.core.errors import ConfigError
from matscale.core.scaling.law import Array
from matscale.core.scaling.tables.table import GROUP, Table, Words, groups


@dataclass(frozen=True)
class Offset:
    """Offset of a group: the ratio of its losses to the law at the same size; 0.7 is 30 % below the law.

    For a mixed law, the ratio is that to the mean of the groups, shrunk towards 1 by the share that noise explains.
    """

    group: str
    n: int
    """Number of points of the group"""
    ratio: float
    low: float
    """Lower end of the 95 % interval of the ratio; `high` is its upper end"""
    high: float

    @property
    def word(self) -> str:
        """Side of the law on which the group lies: `below` or `above`; empty if the interval contains both sides."""
        return "below" if self.high < 1 else "above" if self.low > 1 else ""

    def plain(self) -> dict[str, object]:
        return {
            "group": self.group,
            "n": self.n,
            "ratio": self.ratio,
            "interval": [self.low, self.high],
            "word": self.word or None,
        }


def pool(table: Table) -> Table:
    """Copy of a table in which all rows count as one architecture. Raises ConfigError if there is only one anyway."""
    names = table.architectures
    if len(names) < 2:
        named = f" ({names[0]})" if any(names) else ""
        raise ConfigError(
            f"--pool: all rows belong to one architecture{named}, so there is nothing to pool. Leave out --pool, or "
            "say which column names the groups: --map arch=COLUMN."
        )
    one = np.full(len(table), everyone(len(names)))
    return replace(table, words={**table.words, GROUP: table.words["arch"], "arch": one})


def everyone(n_groups: int) -> str:
    """Name that stands for all groups in a law that is fitted to all of them."""
    return f"all {n_groups:,} groups"


def cells(names: Words, x: Array, values: Array) -> tuple[Words, Array, Array]:
    """Average `values` over each group and size: returns the group, the mean ln size and the mean value of each [k].

    They are sorted by group.
    """
    size = groups(np.exp(x))
    place: dict[tuple[str, int], list[int]] = {}
    for row, key in enumerate(zip(names.tolist(), size.tolist())):
        place.setdefault(key, []).append(row)
    rows = [place[key] for key in sorted(place)]
    means = [np.array([v[those].mean() for those in rows]) for v in (x, values)]
    return np.array([key[0] for key in sorted(place)]), means[0], means[1]


def numbered(names: Words) -> tuple[list[str], NDArray[np.int64]]:
    """Distinct names, and the index among them of the name of each row."""
    distinct, number = np.unique(names, return_inverse=True)
    return distinct.tolist(), number.astype(np.int64)


def alike(names: Words, residuals: Array) -> tuple[float, float]:
    """Test whether residuals are correlated within groups: returns the p-value, and the variance inflation.

    The test is an analysis of variance over the groups with two or more residuals; p is 1 if no test is possible. The
    variance inflation is Kish's 1 + (m - 1) rho, where m is the mean number of residuals in a group and rho their
    correlation.
    """
    number = numbered(names)[1]
    counts = np.bincount(number)
    several = counts[number] > 1
    n_groups, n = int((counts > 1).sum()), int(several.sum())
    if n_groups < 2 or n - n_groups < 3:
        return 1.0, 1.0
    values, number = residuals[several], np.unique(number[several], return_inverse=True)[1]
    counts = np.bincount(number)
    mean = np.bincount(number, values) / counts
    within = float(((values - mean[number]) ** 2).sum()) / (n - n_groups)
    between = float((counts * (mean - values.mean()) ** 2).sum()) / (n_groups - 1)
    if within <= 0:
        return 1.0, 1.0
    share = max(between - within, 0.0)
    share = share / (share + counts.mean() * within)
    return float(stats.f.sf(between / within, n_groups - 1, n - n_groups)), 1 + (counts.mean() - 1) * share


def ordered(offsets: Sequence[Offset]) -> tuple[Offset, ...]:
    """Sort offsets of groups, the lowest first."""
    return tuple(sorted(offsets, key=lambda one: one.ratio))
