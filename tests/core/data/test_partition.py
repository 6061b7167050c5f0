"""Structures of a step, divided among processes and into micro-batches."""

from __future__ import annotations

import numpy as np
import pytest

from matscale.core.data.partition import balanced, shares


@pytest.mark.parametrize("n_parts", [1, 2, 3, 7])
def test_parts_hold_every_item_once_and_about_the_same_work(n_parts: int, rng: np.random.Generator) -> None:
    work = rng.integers(1, 300, 90)
    parts = balanced(work, n_parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(90))
    sums = [int(work[part].sum()) for part in parts]
    assert max(sums) - min(sums) <= work.max()
    assert max(sums) <= (4 / 3) * max(work.sum() / n_parts, work.max())  # Graham's bound


def test_no_part_is_empty_if_there_are_enough_items() -> None:
    assert [len(part) for part in balanced(np.array([900, 0, 0, 1]), 3)] == [1, 1, 2]
    assert [len(part) for part in balanced(np.zeros(4, int), 4)] == [1, 1, 1, 1]
    assert [len(part) for part in balanced(np.array([5]), 3)] == [1, 0, 0]


def test_equal_items_go_in_turn() -> None:
    assert [part.tolist() for part in balanced(np.ones(5, int), 2)] == [[0, 2, 4], [1, 3]]


def test_no_process_needs_a_micro_batch_more_for_a_few_small_structures() -> None:
    work = np.array([100] * 2 + [1] * 14)  # by work alone, one process would get more than eight
    assert [[len(part) for part in share] for share in shares(work, [], 2, structures=8)] == [[8], [8]]


def test_micro_batches_keep_to_the_limits_unless_one_item_exceeds_them() -> None:
    sizes = np.array([9, 2, 2, 2, 3, 3, 1])
    for share in shares(sizes, [(sizes, 5)], 2):
        assert all(len(part) == 1 or sizes[part].sum() <= 5 for part in share)
    assert shares(np.array([], int), [], 2) == [[], []]
