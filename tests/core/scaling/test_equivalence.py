"""Exponents that are equal within a margin: two one-sided tests beside the test for a difference."""

from __future__ import annotations

import json

import numpy as np
import pytest
from laws_data import SIZES, ladder, means_of

from matscale.core.hosting.host import host
from matscale.core.scaling.comparison.compare import Comparison, compare
from matscale.core.scaling.comparison.difference import welch
from matscale.core.scaling.comparison.equivalence import equality, equality_text, holm
from matscale.core.scaling.comparison.power_of_test import power_of_equality
from matscale.core.scaling.tables.table import Table

LAWS = [host().law("power")]


def compared(difference: float, scatter: float, margin: float | None) -> Comparison:
    rng = np.random.default_rng(0)
    rows = [*ladder(rng, arch="a", scatter=scatter), *ladder(rng, exponent=0.3 + difference, arch="b", scatter=scatter)]
    return compare(Table.of(rows), [], LAWS, axis="n", margin=margin)


@pytest.mark.parametrize(
    ("difference", "margin", "verdict"),
    [(0.0, 0.02, "equal within 0.02"), (0.1, 0.02, "different"), (0.0, 0.004, "undecided")],
)
def test_a_margin_gives_one_of_three_verdicts(difference: float, margin: float, verdict: str) -> None:
    assert compared(difference, 0.01, margin).pairs[0].verdict == verdict


def test_a_difference_that_is_sure_and_small_is_equal_within_the_margin() -> None:
    [pair] = compared(0.02, 0.001, 0.06).pairs
    assert pair.p < 0.01
    assert pair.verdict == "equal within 0.06"


def test_without_a_margin_nothing_is_called_equal() -> None:
    result = compared(0.0, 0.003, None)
    [pair] = result.pairs
    assert pair.verdict == "no difference shown"
    assert pair.margin is None
    assert json.loads(json.dumps(result.plain(), allow_nan=False))["pairs"][0]["p_equal"] is None


def test_exponents_a_margin_apart_are_called_equal_in_five_of_a_hundred_cases() -> None:
    rng, reps, called = np.random.default_rng(1), 200, 0
    x = np.log(np.array(SIZES))
    for _ in range(reps):
        a, b = (means_of(x, 1.0 - alpha * x + 0.02 * rng.standard_normal(8)) for alpha in (0.3, 0.34))
        first, second, freedom = welch(a, b, LAWS[0])
        error = float(np.sqrt(first.covariance[1, 1] + second.covariance[1, 1]))
        called += equality(float(first.theta[1] - second.theta[1]), 0.04, error, freedom) < 0.05
    assert 0.02 <= called / reps <= 0.085


def test_the_power_to_see_equality_is_that_of_simulation() -> None:
    rng = np.random.default_rng(2)
    found = 0.01 * rng.standard_normal(4000)
    errors = 0.01 * np.sqrt(rng.chisquare(9, 4000) / 9)
    seen = np.mean([equality(float(d), 0.03, float(e), 9) < 0.05 for d, e in zip(found, errors)])
    assert power_of_equality(0.03, 0.01, 9) == pytest.approx(seen, abs=0.02)


def test_the_words_say_the_interval_and_what_it_has_to_lie_in() -> None:
    told = equality_text(compared(0.0, 0.01, 0.004).pairs[0])
    assert "equality within 0.004: p = 0." in told
    assert "has to lie within ±0.004" in told


def test_all_pairs_are_corrected_for_their_number() -> None:
    rng = np.random.default_rng(3)
    rows = [row for arch in "abc" for row in ladder(rng, arch=arch, scatter=0.01)]
    pairs = compare(Table.of(rows), [], LAWS, axis="n", margin=0.03).pairs
    assert [pair.p_equal_adjusted for pair in pairs] == holm([pair.p_equal for pair in pairs])
    assert all(pair.p_equal_adjusted >= pair.p_equal for pair in pairs)


def test_exponents_that_cannot_be_compared_are_not_called_equal() -> None:
    rng = np.random.default_rng(4)
    rows = [*ladder(rng, arch="a"), *ladder(rng, exponent=0.0, noise=1e-3, arch="b")]
    [pair] = compare(Table.of(rows), [], LAWS, axis="n", margin=0.5).pairs
    assert pair.verdict == "not comparable"
    assert np.isnan(pair.p_equal)
