"""Text of a comparison: every reason beside its verdict, the loss that was asked for, and what is left to settle."""

from __future__ import annotations

import json

import numpy as np
import pytest

import matscale
from matscale.cli.laws.text import comparison_text
from matscale.core.hosting.host import host
from matscale.core.report.words import cheaper, pair_sentences
from matscale.core.scaling import one_variable
from matscale.core.scaling.comparison.compare import Comparison, compare
from matscale.core.scaling.comparison.power_of_test import settling
from matscale.core.scaling.means import size_means
from matscale.core.scaling.tables.table import Table

POWER = [host().law("power")]
SIZES = (1e4, 4e4, 1.6e5, 6.4e5, 2.56e6, 1e7)


def grid(arch: str, noise: float, of_last: float = 1.0, alpha: float = 0.3) -> list[dict[str, object]]:
    """Two seeds of six sizes on four amounts of data, above a floor of 0.5; `of_last` multiplies the largest size."""
    rng = np.random.default_rng(len(arch))
    return [
        {
            "arch": arch,
            "n": n,
            "d": d,
            "c": 50 * n**0.9 * d,
            "seed": seed,
            "loss": (0.5 + 30 * n**-alpha + 60 * d**-0.35)
            * (of_last if n == SIZES[-1] else 1.0)
            * float(np.exp(noise * rng.standard_normal())),
        }
        for n in SIZES
        for d in (1e3, 5e3, 2e4, 1e5)
        for seed in range(2)
    ]


@pytest.fixture(scope="module")
def refused() -> Comparison:
    """A joint law with a floor against an architecture of which slice and joint law are both refused."""
    return compare(Table.of(grid("good", 0.005) + grid("off", 0.01, 2.0)), [], POWER, axis="c")


def test_a_pair_that_is_not_comparable_keeps_the_reasons_of_the_refused_side(refused: Comparison) -> None:
    [pair], fit = refused.pairs, refused.fits["off"]
    assert (pair.verdict, fit.is_law) == ("not comparable", False)
    assert len(fit.reasons) > 1
    text, report = comparison_text(refused), " ".join(pair_sentences(pair, refused))
    assert fit.verdict_with_reasons in text
    for reason in map(str, fit.reasons):
        for where in (text, report, pair.reason, json.dumps(refused.plain(), ensure_ascii=False)):
            assert reason in where
    assert "slopes of slices are local, since the joint law nd has a floor: 0." in pair.reason
    assert f"also, {fit.verdict_with_reasons}" in pair.reason or pair.reason.endswith(fit.verdict_with_reasons)


def test_a_multiplier_by_a_refused_law_says_why_it_was_refused(refused: Comparison) -> None:
    [pair], fit = refused.pairs, refused.fits["off"]
    for one in pair.multipliers:
        if one.axis != "hours":
            assert fit.verdict_with_reasons in (one.reason or " ".join(one.notes))
    assert fit.verdict_with_reasons in " ".join(cheaper(refused))


@pytest.fixture(scope="module")
def asked() -> Comparison:
    """2.2 has points at the largest amount of data, but its best n and d lie beyond the runs; 3.2 has both."""
    return compare(
        Table.of(grid("one", 0.005) + grid("other", 0.005, alpha=0.28)), [], POWER, axis="c", at_loss=[2.2, 3.2]
    )


def test_a_loss_outside_the_points_of_one_basis_is_never_answered_at_another(asked: Comparison) -> None:
    [pair] = asked.pairs
    at_best, [fixed] = pair.multipliers[-1], [one for one in pair.multipliers if one.axis == "n"]
    assert ([point.loss for point in fixed.asked], fixed.outside) == ([2.2, 3.2], ())
    assert [point.loss for point in at_best.asked] == [3.2]
    [(loss, why)] = at_best.outside
    assert (loss, why[:29]) == (2.2, "outside the points of one: fr")
    assert at_best.plain()["outside"] == [{"loss": 2.2, "reason": why}]
    for text in (comparison_text(asked), " ".join(cheaper(asked))):
        assert "For the same loss of 2.2, it is unknown how much " in text
        assert f" (the best n and d of each), {why}" in text
        assert f"unknown at 2.2, {why}" in text
        assert "the lowest that both have points for" not in text


def test_what_would_settle_it_is_said_where_something_is_left_to_settle() -> None:
    def rows(arch: str, alpha: float, noise: float) -> list[dict[str, object]]:
        return [{"arch": arch, "n": n, "loss": 30 * n**-alpha * (1 + (-1) ** k * noise)} for k, n in enumerate(SIZES)]

    for alpha, noise, margin, verdict, is_open in (
        (0.4, 0.01, None, "exponents differ", False),
        (0.4, 0.01, 0.02, "different", False),
        (0.3, 0.003, 0.02, "equal within 0.02", False),
        (0.31, 0.05, 0.02, "undecided", True),
        (0.31, 0.05, None, "no difference shown", True),
    ):
        table = Table.of(rows("a", 0.3, noise) + rows("b", alpha, noise))
        result = compare(table, [], POWER, axis="n", margin=margin)
        [pair] = result.pairs
        assert (pair.verdict, pair.is_open) == (verdict, is_open)
        texts = comparison_text(result), " ".join(pair_sentences(pair, result))
        assert all(("settle it: " in text.replace("To settle", "to settle")) == is_open for text in texts)
        assert (result.plain()["pairs"][0]["settling"] is None) == (not is_open)


def test_sizes_that_show_no_difference_are_not_called_enough_for_it() -> None:
    """The exponent of a law with a floor is known less well than a slope through the same points."""
    rng = np.random.default_rng(0)
    table = Table.of([{"n": n, "loss": 30 * n**-0.3 + rng.random()} for n in SIZES])
    means = size_means(table, "n")
    plain, floored = (settling(0.04, means, means, (0.02, 0.02), 6, 0.06, p) for p in (2, 3))
    assert plain.sizes is not None
    assert floored.sizes is None or floored.sizes > plain.sizes


def test_a_size_that_the_others_say_nothing_about_may_be_off_by_any_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_variable, "far_sizes", lambda means, spread: [(0, 800.0)])
    rows = [{"n": n, "loss": 30 * n**-0.3 * (1 + (-1) ** k * 0.01)} for k, n in enumerate(SIZES)]
    assert any(note.startswith("outlier kept: n = 10,000 (+inf %)") for note in matscale.fit(rows, "power").notes)
