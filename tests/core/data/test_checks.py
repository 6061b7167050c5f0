"""Preflight: labels that are missing everywhere and stress in the wrong unit are refused, right data are not."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from matscale.core.data.checks import coverage, preflight
from matscale.core.data.formats import read
from matscale.core.errors import DataError

WEIGHTS = {"energy": 2.5, "forces": 20.0, "stress": 5.0}
GPA, KBAR = 160.21766, 1602.1766


def test_coverage_counts_the_structures_that_were_asked_about(structures, pack_into):
    given = structures(10)
    given[0], given[1] = replace(given[0], forces=None), replace(given[1], forces=None)
    dataset = pack_into(given)
    assert [(r.label, r.n_labelled) for r in coverage(dataset)] == [("energy", 10), ("forces", 8), ("stress", 10)]
    assert coverage(dataset, [0, 1, 2])[1].n_labelled == 1


def test_a_target_without_labels_is_refused_and_named(structures, pack_into):
    dataset = pack_into([replace(s, forces=None) for s in structures(10)])
    with pytest.raises(DataError, match=r"none of the 10 training structures has forces.*--key forces"):
        preflight(dataset, np.arange(10), WEIGHTS)
    assert len(preflight(dataset, np.arange(10), {**WEIGHTS, "forces": 0})) == 3


@pytest.mark.parametrize(
    "name", ["mattersim_alexandria_random", "mattersim_mpf_tp", "mattersim_mptrj_highstress", "mattersim_mptrj_random",
             "mvl_nimo"]
)  # fmt: skip
def test_stress_in_gpa_or_kbar_is_refused_and_in_ev_per_cubic_angstrom_accepted(shared, pack_into, name):
    given = list(islice(read(next((shared / "data" / name).glob("*.xz"))), 250))
    preflight(pack_into(given, "right"), np.arange(len(given)), WEIGHTS)
    for unit, factor in (("GPa", GPA), ("kbar", KBAR)):
        wrong = pack_into([replace(s, stress=s.stress * factor) for s in given], unit)
        with pytest.raises(DataError, match="looks like GPa or kbar"):
            preflight(wrong, np.arange(len(given)), WEIGHTS)
        preflight(wrong, np.arange(len(given)), WEIGHTS, check_stress_unit=False)
        preflight(wrong, np.arange(len(given)), {**WEIGHTS, "stress": 0})


def test_without_forces_only_an_impossible_stress_is_refused(structures, pack_into):
    bare = [replace(s, forces=None) for s in structures(20)]
    weights = {"energy": 1.0, "stress": 5.0}
    preflight(pack_into(bare, "right"), np.arange(20), weights)
    with pytest.raises(DataError, match="no forces to compare"):
        preflight(pack_into([replace(s, stress=s.stress * KBAR) for s in bare], "kbar"), np.arange(20), weights)
