"""Rank correlation, decay length and weights on oneself of attention, with their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from matscale.core.attention.statistics import Estimate, Pairs, heads_of, ratios, spearman, sums_of


def structure(rng: np.random.Generator, lengths: tuple[float, ...], own: float = 0.1) -> Pairs:
    """Attention set by hand: of each atom, `own` on itself, and the rest falls as exp(−d/λ), a head for each λ."""
    n = int(rng.integers(4, 9))
    points = rng.uniform(0, 8, (n, 3))
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    query, key = np.repeat(np.arange(n), n), np.tile(np.arange(n), n)
    weights = np.exp(-distance[None] / np.array(lengths)[:, None, None])
    weights[:, np.eye(n, dtype=bool)] = 0
    weights *= (1 - own) / weights.sum(2, keepdims=True)
    weights[:, np.eye(n, dtype=bool)] = own
    return Pairs(query, key, distance.reshape(-1), weights.reshape(len(lengths), -1))


def test_weights_that_are_set_to_decay_give_their_decay_length(rng: np.random.Generator) -> None:
    heads = heads_of(1, [sums_of(structure(rng, (1.5, 4.0))) for _ in range(12)])
    for head, length in zip(heads, (1.5, 4.0)):
        assert head.length == pytest.approx((length,) * 3, rel=1e-9)
        assert head.own == pytest.approx((0.1,) * 3)
        assert head.rank.value < -0.5
        assert head.rank.low <= head.rank.value <= head.rank.high < 0
    assert [(head.layer, head.head) for head in heads] == [(1, 1), (1, 2)]


def test_weights_that_vanish_at_a_cutoff_do_not_bend_the_decay(rng: np.random.Generator) -> None:
    sums = []
    for _ in range(8):
        pairs = structure(rng, (2.0,))
        far = (pairs.distance > 6) & (pairs.distance < 6.5)
        pairs.weights[:, far] *= 1e-12
        pairs.weights[:, pairs.distance >= 6.5] = 0
        sums.append(sums_of(pairs))
    assert heads_of(1, sums)[0].length.value == pytest.approx(2.0, rel=1e-2)


def test_weights_that_grow_have_a_rate_below_zero_and_no_length(rng: np.random.Generator) -> None:
    [head] = heads_of(1, [sums_of(structure(rng, (-3.0,))) for _ in range(8)])
    assert head.rate.value == pytest.approx(-1 / 3)
    assert np.isnan(head.length).all()
    assert head.rank.low > 0


def test_even_attention_has_the_relative_weight_one_at_all_distances(rng: np.random.Generator) -> None:
    sums = []
    for _ in range(6):
        pairs = structure(rng, (1.0,))
        n = int(pairs.query.max()) + 1
        sums.append(sums_of(Pairs(pairs.query, pairs.key, pairs.distance, np.full((1, n * n), 1 / n))))
    [head] = heads_of(1, sums)
    assert [one.value for one in head.curve] == pytest.approx([1.0] * len(head.curve))
    assert len(head.distance) == len(head.curve) > 10
    assert np.isnan(head.rank.value)  # nothing to rank
    assert head.rate.value == pytest.approx(0, abs=1e-12)


def test_one_structure_has_values_without_intervals(rng: np.random.Generator) -> None:
    [head] = heads_of(1, [sums_of(structure(rng, (2.0,)))])
    assert head.length.value == pytest.approx(2.0)
    assert np.isnan(head.rate[1:]).all()


def test_an_atom_alone_counts_for_its_weight_on_itself_only(rng: np.random.Generator) -> None:
    alone = Pairs(np.array([0]), np.array([0]), np.zeros(1), np.ones((1, 1)))
    [head] = heads_of(1, [sums_of(alone), sums_of(alone)])
    assert head.own.value == 1
    assert np.isnan([head.rank.value, head.rate.value]).all()
    assert head.curve == ()


def test_an_image_of_an_atom_is_not_the_atom_itself() -> None:
    pairs = Pairs(np.zeros(3, int), np.zeros(3, int), np.array([0.0, 3.0, 4.0]), np.array([[0.5, 0.3, 0.2]]))
    assert pairs.is_self.tolist() == [True, False, False]
    [head] = heads_of(1, [sums_of(pairs)])
    assert head.rate.value == pytest.approx(np.log(1.5))


def test_rounding_of_equal_distances_is_no_rank() -> None:
    weight = np.array([0.1, 0.4, 0.2, 0.3])
    assert np.isnan(spearman(2.5 + 1e-9 * np.arange(4), weight))


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(5), 0
    for k in range(200):
        size = rng.integers(1, 6, (40, 1)).astype(float)
        found = ratios(size * 2 + np.sqrt(size) * rng.standard_normal((40, 1)), size, seed=k)[:, 0]
        hits += found[1] <= 2 <= found[2]
    assert 0.90 <= hits / 200 <= 0.98


def test_a_length_reaches_infinity_where_the_rate_may_be_zero() -> None:
    assert Estimate(0.5, -0.1, 1.0).inverse() == (2.0, 1.0, np.inf)
