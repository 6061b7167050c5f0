"""Division of the structures of a step among processes, with about the same work for each, and into micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

Limits = Sequence[tuple[NDArray[np.integer], int]]
"""Limits on a micro-batch, each as (size of every item [n], largest sum of sizes)."""


def balanced(work: NDArray[np.integer], n_parts: int, most: int | None = None) -> list[NDArray[np.int64]]:
    """Divide items with some `work` [n] into parts with about equal sums, of at most `most` items each.

    The largest item goes first, each to the part with the least work so far, so that no part is empty if there are
    enough items. Equal items and equal parts are taken in order: the result depends on the arguments alone. Within a
    part, items keep their order. Source: Graham, SIAM J. Appl. Math. 17, 416 (1969).

    >>> [part.tolist() for part in balanced(np.array([3, 1, 5, 4, 1]), 2)]
    [[1, 2, 4], [0, 3]]
    """
    assert most is None or most * n_parts >= len(work)
    parts: list[list[int]] = [[] for _ in range(n_parts)]
    least = [(0, 0, k) for k in range(n_parts)]  # work and number of items so far
    heapify(least)
    sizes = work.tolist()
    for item in np.argsort(-work.astype(np.int64), kind="stable").tolist():
        done, count, k = heappop(least)
        parts[k].append(item)
        if most is None or count + 1 < most:
            heappush(least, (done + sizes[item], count + 1, k))
    return [np.sort(np.array(part, dtype=np.int64)) for part in parts]


def shares(
    work: NDArray[np.integer], limits: Limits, n_processes: int, structures: int | None = None
) -> list[list[NDArray[np.int64]]]:
    """Divide the items of a step among processes: the micro-batches of each process, as places in `work`.

    A micro-batch has at most `structures` items and keeps to `limits`, unless a single item exceeds them.
    """
    # So many items that no process needs one more micro-batch for a few of them.
    most = None if structures is None else structures * -(-len(work) // (n_processes * structures))
    whole = balanced(work, n_processes, most)
    return [[part[p] for p in _micro_batches(work[part], _of(limits, part), structures)] for part in whole]


def _of(limits: Limits, part: NDArray[np.int64]) -> Limits:
    return [(sizes[part], limit) for sizes, limit in limits]


def _micro_batches(work: NDArray[np.integer], limits: Limits, structures: int | None) -> list[NDArray[np.int64]]:
    """Divide items into as few balanced micro-batches as the limits allow."""
    if not len(work):
        return []
    bounds = [*limits, *([] if structures is None else [(np.ones_like(work), structures)])]
    n = max((-(-int(sizes.sum()) // limit) for sizes, limit in bounds), default=1)
    n = min(max(n, 1), len(work))
    while True:
        parts = balanced(work, n, structures)
        if all(len(p) == 1 or all(sizes[p].sum() <= limit for sizes, limit in bounds) for p in parts):
            return parts
        n += 1
