"""Moments and histograms: exact, additive, and small whatever the values."""

from __future__ import annotations

import numpy as np
import pytest

from matscale.core.data.store.statistics import MAX_BINS, PROPERTIES, Summary, edge

STRESS = PROPERTIES["stress_component"]


def test_moments_do_not_depend_on_how_the_values_are_cut(rng):
    values = rng.normal(3.0, 2.0, 1000)
    whole, pieces = Summary(), Summary()
    whole.add(values, STRESS)
    for part in np.split(values, [1, 10, 400]):
        pieces.add(part, STRESS)
    assert pieces.bins == whole.bins
    assert pieces.plain()["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert pieces.plain()["std"] == pytest.approx(values.std(), rel=1e-12)


def test_bins_are_joined_before_they_become_too_many(rng):
    """Stress in kbar fills a million bins of 0.005, which would all be in the manifest that every opening reads."""
    values = rng.uniform(-1000, 1000, 20_000)
    whole, pieces = Summary(), Summary()
    whole.add(values, STRESS)
    for part in np.split(values, 7 * [0] + [5000, 15_000]):
        pieces.add(part, STRESS)
    plain = whole.plain()
    assert len(plain["bins"]) <= MAX_BINS
    assert plain["joined"] > 1
    for number, count in plain["bins"][:50]:
        low, high = edge(number, plain, STRESS), edge(number + 1, plain, STRESS)
        assert count == ((values >= low) & (values < high)).sum()
    assert sum(count for _, count in plain["bins"]) == len(values)
    assert (pieces.bins, pieces.joined) == (whole.bins, whole.joined)
