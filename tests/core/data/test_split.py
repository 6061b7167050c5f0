"""Splits: disjoint by group, nested, the same for everybody who names the same seed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from matscale.core.data.split import split
from matscale.core.errors import ConfigError, DataError


class Groups:
    """A dataset of which only the groups are known."""

    def __init__(self, groups) -> None:
        self.groups = np.asarray(groups, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.groups)


@pytest.fixture
def dataset(rng) -> Groups:
    return Groups(rng.integers(0, 300, 2000))


@pytest.mark.parametrize("by", ["group", "structure"])
def test_the_two_parts_are_disjoint_and_cover_the_dataset(dataset, by):
    parts = split(dataset, 0.1, seed=3, by=by)
    assert sorted([*parts.train, *parts.validation]) == list(range(2000))
    assert len(parts.validation) == pytest.approx(200, abs=10)


def test_no_group_is_in_both_parts(dataset):
    parts = split(dataset, 0.2, seed=0)
    assert not set(dataset.groups[parts.train]) & set(dataset.groups[parts.validation])
    by_structure = split(dataset, 0.2, seed=0, by="structure")
    assert set(dataset.groups[by_structure.train]) & set(dataset.groups[by_structure.validation])


def test_a_smaller_training_set_is_part_of_a_larger_one(dataset):
    parts = split(dataset, 0.1, seed=0)
    sizes = [parts.take(fraction=f) for f in (0.01, 0.1, 0.5, 1.0)]
    for small, large in itertools.pairwise(sizes):
        assert len(small) < len(large)
        assert set(small) <= set(large)
    assert len(parts.take(count=64)) == 64
    assert parts.take().tolist() == sorted(parts.train)


def test_the_same_seed_gives_the_same_split_and_another_seed_another(dataset):
    a, b, c = (split(dataset, 0.1, seed) for seed in (0, 0, 1))
    assert np.array_equal(a.train, b.train)
    assert np.array_equal(a.validation, b.validation)
    assert not np.array_equal(a.validation, c.validation)


def test_another_order_of_training_leaves_the_validation_as_it_is(dataset):
    a, b = split(dataset, 0.1, 0), split(dataset, 0.1, 0, order_seed=1)
    assert np.array_equal(a.validation, b.validation)
    assert sorted(a.train) == sorted(b.train)
    assert not np.array_equal(a.take(0.1), b.take(0.1))
    assert np.array_equal(split(dataset, 0.1, 0, order_seed=0).train, a.train)


def test_a_group_larger_than_the_validation_part_stays_in_training():
    parts = split(Groups([7] * 900 + list(range(100, 200))), 0.1, seed=0)
    assert len(parts.validation) == 100
    assert 7 not in parts.validation


def test_when_no_group_is_small_enough_the_smallest_is_validation():
    parts = split(Groups([1] * 60 + [2] * 40), 0.1, seed=0)
    assert len(parts.validation) == 40


def test_a_dataset_of_one_group_says_what_to_do():
    with pytest.raises(DataError, match="Split by structure"):
        split(Groups([1] * 10), 0.1, seed=0)
    assert len(split(Groups([1] * 10), 0.1, seed=0, by="structure").validation) == 1


@pytest.mark.parametrize("validation", [0, 1, -0.1, 2])
def test_an_impossible_fraction_is_refused(dataset, validation):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        split(dataset, validation, seed=0)


@pytest.mark.parametrize("wanted", [{"fraction": 0}, {"fraction": 1.5}, {"count": 0}, {"count": 10**6}])
def test_an_impossible_training_size_is_refused(dataset, wanted):
    with pytest.raises(ConfigError):
        split(dataset, 0.1, seed=0).take(**wanted)
