"""Stress in another unit than eV/Å³ is refused, right data of every kind are not."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from matscale.core.data.sources.find import read
from matscale.core.data.stress_units import check_stress
from matscale.core.errors import DataError

GPA, KBAR = 160.21766, 1602.1766


@pytest.mark.parametrize(
    "name", ["mattersim_alexandria_random", "mattersim_mpf_tp", "mattersim_mptrj_highstress", "mattersim_mptrj_random",
             "mvl_nimo"]
)  # fmt: skip
def test_stress_in_gpa_or_kbar_is_refused_and_in_ev_per_cubic_angstrom_accepted(shared, pack_into, name):
    given = list(islice(read(next((shared / "data" / name).glob("*.xz"))), 250))
    check_stress(pack_into(given, "right"), np.arange(len(given)))
    for unit, factor in (("GPa", GPA), ("kbar", KBAR)):
        wrong = pack_into([replace(s, stress=s.stress * factor) for s in given], unit)
        with pytest.raises(DataError, match="looks like GPa or kbar"):
            check_stress(wrong, np.arange(len(given)))


def test_without_forces_only_an_impossible_stress_is_refused(structures, pack_into):
    bare = [replace(s, forces=None) for s in structures(20)]
    check_stress(pack_into(bare, "right"), np.arange(20))
    with pytest.raises(DataError, match="no forces to compare"):
        check_stress(pack_into([replace(s, stress=s.stress * KBAR) for s in bare], "kbar"), np.arange(20))


def test_a_dataset_without_stress_has_nothing_to_check(structures, pack_into):
    check_stress(pack_into([replace(s, stress=None) for s in structures(5)]), np.arange(5))


def test_training_refuses_such_a_stress_unless_told_otherwise(structures, pack_into):
    from matscale.core.hosting.host import get
    from matscale.core.runs.config import TrainConfig
    from matscale.core.train.setup import prepare

    dataset = pack_into([replace(s, forces=0.1 * s.forces, stress=s.stress * KBAR) for s in structures(40)])
    options = {"path": str(dataset.path), "validation": 0.2, "cache_graphs": False}

    def prepared(**data):
        config = {"architecture": {"name": "fcn"}, "data": {**options, **data}}
        return prepare(TrainConfig.parse(config), get("fcn"))

    with pytest.raises(DataError, match=r"data\.check_stress_unit=false"):
        prepared()
    assert len(prepared(check_stress_unit=False).train) > 0
