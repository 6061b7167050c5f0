"""Equal exponents are called different as often as the level says, true differences as often as the power says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from laws_data import SIZES, grid, ladder, means_of

from matscale.core.errors import ConfigError, DataError
from matscale.core.hosting.host import host
from matscale.core.scaling.comparison.compare import Comparison, compare
from matscale.core.scaling.comparison.difference import welch
from matscale.core.scaling.comparison.power_of_test import power, slope_error, smallest_difference
from matscale.core.scaling.intervals import quantile
from matscale.core.scaling.tables.table import Table

Rng = np.random.Generator
LAWS = [law for law in host().laws() if law.axes == ("x",)]
POWER = LAWS[0]


def compared(rng: Rng, a: float = 0.3, b: float = 0.3, **options: object) -> Comparison:
    rows = [*ladder(rng, exponent=a, arch="a", **options), *ladder(rng, exponent=b, arch="b", **options)]  # type: ignore[arg-type]
    return compare(Table.of(rows), ["a", "b"], LAWS, axis="n")


def test_equal_exponents_are_called_different_in_five_of_a_hundred_cases_with_scatter_between_sizes() -> None:
    rng, reps = np.random.default_rng(0), 400
    x = np.log(np.array(SIZES))
    seen = 0
    for _ in range(reps):
        # Sizes scatter by 3 %, three times what seeds do: a bootstrap over seeds would be wrong in two of three cases.
        a, b = (means_of(x, 1.0 - 0.3 * x + np.hypot(0.03, 0.01 / 3**0.5) * rng.standard_normal(8)) for _ in "ab")
        first, second, freedom = welch(a, b, POWER)
        error = np.hypot(np.sqrt(first.covariance[1, 1]), np.sqrt(second.covariance[1, 1]))
        seen += abs(first.theta[1] - second.theta[1]) > quantile(0.95, freedom) * error
    assert 0.03 <= seen / reps <= 0.07


@pytest.mark.parametrize(("difference", "wanted"), [(0.02, 0.45), (0.04, 0.94)])
def test_the_stated_power_is_how_often_a_difference_is_seen_in_simulation(difference: float, wanted: float) -> None:
    error = np.sqrt(2) * slope_error(np.hypot(0.03, 0.01 / 3**0.5), 8, 2 * np.log(10))
    assert power(difference, float(error), 12) == pytest.approx(wanted, abs=0.03)


def test_power_is_the_level_without_a_difference_and_one_for_a_huge_one() -> None:
    assert power(0.0, 0.1, 6) == pytest.approx(0.05, abs=0.002)
    assert power(50.0, 0.1, 6) == pytest.approx(1.0)
    least = smallest_difference(0.01, 12)
    assert power(least, 0.01, 12) == pytest.approx(0.8, abs=1e-3)


def test_a_clear_difference_is_seen_with_its_interval(rng: Rng) -> None:
    [pair] = compared(rng, 0.35, 0.25, noise=0.01).pairs
    assert pair.verdict == "exponents differ"
    assert pair.interval[0] < 0.1 < pair.interval[1]
    assert pair.p < 1e-4


def test_no_difference_shown_says_what_would_settle_it(rng: Rng) -> None:
    [pair] = compared(rng, 0.30, 0.31, scatter=0.03, noise=0.03).pairs
    assert pair.verdict == "no difference shown"
    assert 0 < pair.power < 1
    assert pair.smallest > 0.02
    assert "sizes per architecture" in pair.settling.text


def test_more_seeds_help_only_where_seeds_are_the_noise() -> None:
    noisy_seeds = compared(np.random.default_rng(3), 0.30, 0.30, noise=0.06, scatter=0.0, seeds=2).pairs[0]
    noisy_sizes = compared(np.random.default_rng(3), 0.30, 0.30, noise=0.002, scatter=0.06, seeds=2).pairs[0]
    assert noisy_seeds.settling.seeds is not None
    assert noisy_sizes.settling.seeds is None


def test_laws_that_cross_say_where(rng: Rng) -> None:
    rows = [
        *ladder(rng, exponent=0.4, prefactor=100.0, arch="a", noise=0.002),
        *ladder(rng, exponent=0.3, arch="b", noise=0.002),
    ]
    [pair] = compare(Table.of(rows), ["a", "b"], LAWS, axis="n").pairs
    assert pair.crossing is not None
    value, low, high = pair.crossing
    true = (100 / 30) ** (1 / 0.1)
    assert low <= true <= high
    assert value == pytest.approx(true, rel=0.1)
    before, _, after = pair.ratios
    assert before.value > 1 > after.value


def test_parallel_laws_do_not_cross_at_all(rng: Rng) -> None:
    rows = [*ladder(rng, arch="a", noise=1e-4), *ladder(rng, prefactor=60.0, arch="b", noise=1e-4)]
    result = compare(Table.of(rows), ["a", "b"], LAWS, axis="n")
    assert result.pairs[0].crossing is None
    assert result.pairs[0].ratios[0].value == pytest.approx(0.5, rel=0.01)
    assert [rank.architecture for rank in result.ranking] == ["a", "b"]


def test_all_pairs_are_corrected_for_their_number(rng: Rng) -> None:
    rows = [
        row for k, arch in enumerate("abc") for row in ladder(rng, exponent=0.3 + 0.012 * k, arch=arch, scatter=0.02)
    ]
    result = compare(Table.of(rows), [], LAWS, axis="n")
    assert len(result.pairs) == 3
    smallest = min(result.pairs, key=lambda pair: pair.p)
    assert smallest.p_adjusted == pytest.approx(min(1, 3 * smallest.p))
    assert all(pair.p_adjusted >= pair.p for pair in result.pairs)


def test_compute_is_compared_at_common_data(rng: Rng) -> None:
    parts = [grid(rng, 6, 3, 2, 0.005, arch=arch) for arch in "ab"]
    numbers = {key: np.concatenate([part[key] for part in parts]) for key in parts[0].numbers}
    words = {key: np.concatenate([part.words[key] for part in parts]) for key in parts[0].words}
    result = compare(Table(numbers, words), ["a", "b"], LAWS)
    assert (result.axis, result.fixed) == ("c", "d = 100,000")
    assert all(len(fit.table) == 12 for fit in result.fits.values())


def test_an_architecture_that_learned_nothing_is_not_compared(rng: Rng) -> None:
    rows = [*ladder(rng, arch="a"), *ladder(rng, exponent=0.0, noise=1e-3, arch="b")]
    [pair] = compare(Table.of(rows), ["a", "b"], LAWS, axis="n").pairs
    assert pair.verdict == "not comparable"
    assert "the exponents cannot be compared: b is no learning (a: " in pair.reason


def test_a_line_that_is_no_law_has_no_exponent_to_compare(rng: Rng) -> None:
    bent = [
        {**row, "loss": float(row["loss"]) * (3.0 if row["n"] == SIZES[-1] else 1.0)} for row in ladder(rng, arch="b")
    ]  # type: ignore[arg-type]
    result = compare(Table.of([*ladder(rng, exponent=0.5, arch="a"), *bent]), ["a", "b"], LAWS, axis="n")
    [pair] = result.pairs
    assert result.fits["b"].verdict == "not identifiable"
    assert not {reason.trigger for reason in result.fits["b"].reasons} & {"a", "b"}
    assert pair.verdict == "not comparable"
    assert "b is not identifiable (" in pair.reason
    assert "a is" not in pair.reason
    assert np.isnan([pair.p, pair.p_adjusted, pair.power]).all()
    assert pair.crossing is None
    assert {rank.architecture: rank.is_law for rank in result.ranking} == {"a": True, "b": False}
    assert result.plain()["pairs"][0]["p"] is None


def test_pairs_that_cannot_be_compared_do_not_weaken_the_others(rng: Rng) -> None:
    rows = [row for k, arch in enumerate("ab") for row in ladder(rng, exponent=0.3 + 0.02 * k, arch=arch, scatter=0.02)]
    rows += ladder(rng, exponent=0.0, noise=1e-3, arch="c")
    pairs = {(p.first, p.second): p for p in compare(Table.of(rows), [], LAWS, axis="n").pairs}
    assert pairs["a", "b"].p_adjusted == pairs["a", "b"].p
    assert {pairs[key].verdict for key in (("a", "c"), ("b", "c"))} == {"not comparable"}


def test_the_plain_form_is_json(rng: Rng) -> None:
    plain = compared(rng).plain()
    assert {"axis", "law", "fits", "pairs", "ranking"} <= set(plain)
    json.dumps(plain, allow_nan=False)


def test_names_that_are_not_there_are_refused(rng: Rng) -> None:
    table = Table.of(ladder(rng, arch="schnet"))
    with pytest.raises(ConfigError, match="Did you mean 'schnet'"):
        compare(table, ["schnett", "schnet"], LAWS)
    with pytest.raises(ConfigError, match="needs at least two architectures"):
        compare(table, [], LAWS)


def test_architectures_on_other_data_are_refused(rng: Rng) -> None:
    rows = [{**row, "d": d} for arch, d in (("a", 100.0), ("b", 900.0)) for row in ladder(rng, arch=arch)]
    with pytest.raises(DataError, match=r"No value of d .* occurs in all architectures"):
        compare(Table.of(rows), ["a", "b"], LAWS, axis="n")


def test_an_amount_of_data_that_nobody_has_is_refused(rng: Rng) -> None:
    rows = [{**row, "d": d} for arch in "ab" for d in (100.0, 900.0) for row in ladder(rng, arch=arch)]
    assert compare(Table.of(rows), [], LAWS, axis="n", at=101.0).fixed == "d = 100"
    with pytest.raises(DataError, match=r"No runs have d = 7\. Choose one of: 100, 900"):
        compare(Table.of(rows), [], LAWS, axis="n", at=7.0)


def test_an_architecture_with_too_few_sizes_is_named(rng: Rng) -> None:
    rows = [*ladder(rng, arch="a"), *ladder(rng, arch="b"), *ladder(rng, SIZES[:2], arch="short")]
    with pytest.raises(DataError, match=r"^short: 2 distinct values of n .* with --arch"):
        compare(Table.of(rows), [], LAWS)
