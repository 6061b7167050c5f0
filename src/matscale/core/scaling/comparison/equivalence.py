"""Equivalence test of two exponents within a margin: two one-sided tests.

Exponents are called equal within a margin m if their difference is significantly above -m and significantly below m, at
5 % each; that is, if the 90 % interval of the difference lies between -m and m. The standard error and the degrees of
freedom are those of the test for a difference. Source: Schuirmann, J. Pharmacokin. Biopharm. 15, 657 (1987).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from matscale.core.errors import ConfigError
from matscale.core.scaling.comparison.difference import UNDECIDED, UNLIKE, Pair
from matscale.core.scaling.comparison.power_of_test import power_of_equality
from matscale.core.scaling.intervals import LEVEL, quantile
from matscale.core.scaling.text import decimals


def within(margin: float) -> str:
    """Verdict on two exponents that are equal within `margin`."""
    return f"equal within {margin:g}"


def check_margin(margin: float | None) -> None:
    """Raises ConfigError if the margin of an equivalence test is not positive."""
    if margin is not None and not (margin > 0 and np.isfinite(margin)):
        raise ConfigError(
            f"--margin {margin:g}: the margin is the largest difference of exponents that does not matter, and must be "
            "a finite number above 0. Write for example --margin 0.02."
        )


def equality(difference: float, margin: float, error: float, freedom: float) -> float:
    """p-value of the equivalence test: the chance of so small a difference if the exponents are `margin` apart.

    >>> round(equality(difference=0.005, margin=0.02, error=0.006, freedom=10), 3)
    0.016
    """
    if freedom <= 0:
        return float("nan")
    return float(stats.t.sf((margin - abs(difference)) / max(error, 1e-300), freedom))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values for multiple tests; NaN stays NaN.

    >>> holm([0.01, float("nan"), 0.04])
    [0.02, nan, 0.04]
    """
    known = sorted((k for k in range(len(p)) if np.isfinite(p[k])), key=lambda k: p[k])
    adjusted, running = [float("nan")] * len(p), 0.0
    for rank, k in enumerate(known):
        running = max(running, min(1.0, p[k] * (len(known) - rank)))
        adjusted[k] = running
    return adjusted


def tested_for_equality(pairs: Sequence[Pair], margin: float) -> list[Pair]:
    """Test each pair for equal exponents and set its verdict: *equal within*, *different* or *undecided*.

    Pairs whose exponents cannot be compared keep their verdict. Exponents that differ significantly, but by less than
    the margin, are equal within it.
    """
    ps = [
        float("nan") if pair.reason else equality(pair.difference, margin, pair.standard_error, pair.freedom)
        for pair in pairs
    ]
    return [
        pair if pair.reason else replace(
            pair,
            margin=margin,
            p_equal=p,
            p_equal_adjusted=adjusted,
            verdict=within(margin)
            if adjusted < 1 - LEVEL
            else UNLIKE
            if pair.p_adjusted < 1 - LEVEL
            else UNDECIDED,
        )
        for pair, p, adjusted in zip(pairs, ps, holm(ps), strict=True)
    ]  # fmt: skip


def equality_text(pair: Pair) -> str:
    """Describe the result of the equivalence test: its p-value, and the interval that has to lie within the margin."""
    assert pair.margin is not None
    half = quantile(2 * LEVEL - 1, pair.freedom) * pair.standard_error
    low, high = pair.difference - half, pair.difference + half
    places = min(max(decimals(low, high) or 0, 2), 4)
    adjusted = f", {pair.p_equal_adjusted:.2g} over all pairs" if pair.p_equal_adjusted != pair.p_equal else ""
    seen = power_of_equality(pair.margin, pair.standard_error, pair.freedom)
    return (
        f"equality within {pair.margin:g}: p = {pair.p_equal:.2g}{adjusted} (two one-sided tests); the 90 % interval "
        f"{low:.{places}f} to {high:.{places}f} has to lie within ±{pair.margin:g}; equal exponents would be found "
        f"equal with probability {seen:.0%}"
    )
