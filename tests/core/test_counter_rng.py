from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from matscale.core.counter_rng import Permutation, rotations, uniforms


@pytest.mark.parametrize("n", [1, 2, 3, 17, 255, 256, 257, 1000, 70_001])
def test_an_order_is_a_permutation(n):
    assert (np.sort(Permutation(n, 5, 0)(np.arange(n))) == np.arange(n)).all()


def test_any_part_of_an_order_can_be_asked_for_alone():
    order = Permutation(1000, 1)
    everything = order(np.arange(1000))
    assert (order(np.array([999, 0, 512])) == everything[[999, 0, 512]]).all()
    assert (order(np.arange(300, 320)) == everything[300:320]).all()


def test_an_entry_of_a_hundred_billion_is_found_without_an_array_of_them():
    assert 0 <= Permutation(10**11, 1)(np.array([10**11 - 1]))[0] < 10**11


def test_all_orders_of_four_come_up_equally_often():
    counts = np.zeros(256)
    for key in range(1200):
        counts[int("".join(map(str, Permutation(4, key)(np.arange(4)))), 4)] += 1
    counts = counts[counts > 0]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_where_an_entry_goes_says_nothing_of_where_its_neighbours_go():
    n = 50_000
    order = Permutation(n, 3)(np.arange(n))
    for lag in (1, 2, 7, 256):
        assert abs(stats.pearsonr(order[:-lag], order[lag:]).statistic) < 4 / np.sqrt(n)
    # Every eighth of the order holds its share of every eighth of the rows.
    table = np.histogram2d(np.arange(n), order, bins=8)[0]
    assert stats.chisquare(table.ravel()).pvalue > 1e-3


def test_orders_of_different_keys_have_no_more_in_common_than_chance():
    n = 20_000
    a, b, c = (Permutation(n, *key)(np.arange(n)) for key in ((0, 1), (1, 0), (0, 2)))
    for one, other in ((a, b), (a, c)):
        assert (one == other).sum() < 10  # Poisson with mean 1
        assert abs(stats.pearsonr(one, other).statistic) < 4 / np.sqrt(n)


def test_uniform_numbers_are_uniform_and_do_not_depend_on_what_else_is_asked():
    u = uniforms(np.arange(20_000), 3, 4, 2)
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    assert (np.abs(np.corrcoef(u.T) - np.eye(3)) < 0.03).all()
    assert (uniforms(np.array([7, 3]), 3, 4, 2) == u[[7, 3]]).all()
    assert not (uniforms(np.array([7, 3]), 3, 2, 4) == u[[7, 3]]).any()


def test_rotations_are_proper_rotations():
    r = rotations(np.arange(500), 1)
    np.testing.assert_allclose(r @ r.transpose(0, 2, 1), np.broadcast_to(np.eye(3), r.shape), atol=1e-14)
    np.testing.assert_allclose(np.linalg.det(r), 1, atol=1e-14)


def test_rotations_are_haar_uniform():
    """Mean 0, images of an axis uniform on the sphere, and the density (1 − cos θ) / π of the angle."""
    r = rotations(np.arange(20_000), 2)
    assert np.abs(r.mean(0)).max() < 4 / np.sqrt(3 * len(r))
    for axis in range(3):
        image = r[:, :, axis]
        assert stats.kstest(image[:, 2], stats.uniform(-1, 2).cdf).pvalue > 1e-3
        assert stats.kstest(np.arctan2(image[:, 1], image[:, 0]), stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3
    angle = np.arccos(np.clip((np.trace(r, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert stats.kstest(angle, lambda x: (x - np.sin(x)) / np.pi).pvalue > 1e-3
    # Euler angles drawn uniformly, the usual mistake, have the right mean but fail the last test by far.
