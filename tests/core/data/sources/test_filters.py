"""The grammar of filters: small, without eval, and it answers a wrong name with the right one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from matscale.core.data.sources.filters import parse
from matscale.core.data.structure import Structure
from matscale.core.errors import ConfigError

WATER = Structure(
    atomic_numbers=np.array([8, 1, 1]),
    positions=np.eye(3),
    cell=np.eye(3) * 3,
    pbc=np.ones(3, dtype=bool),
    energy=-15.0,
    forces=np.array([[3.0, 4.0, 0.0], [0, 0, 0], [0, 0, -1.0]]),
    stress=np.diag([0.1, -0.7, 0.2]),
)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("forces_max<5.1", True),
        ("forces_max < 5", False),
        ("forces_max<=5", True),
        ("stress_max<0.7", False),
        ("stress_max > 6.9e-1", True),
        ("n_atoms==3", True),
        ("n_atoms!=3", False),
        ("energy_per_atom<-4.9", True),
        ("energy_per_atom<-5", False),
        ("volume_per_atom>=9.1", False),
        ("n_elements>=2", True),
        ("elements in H,O", True),
        ("elements in {H, C}", False),
        ("elements not in O", False),
        ("elements not in C N", True),
    ],
)
def test_a_filter_keeps_what_meets_it(text, kept):
    (condition,) = parse([text])
    assert (condition.complaint(WATER) is None) == kept


def test_a_structure_without_the_label_is_kept():
    (condition,) = parse(["forces_max<1"])
    assert condition.complaint(WATER) == "forces_max = 5"
    assert condition.complaint(replace(WATER, forces=None)) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("force_max<50", "Did you mean 'forces_max'"),
        ("forces_max<fifty", "'fifty' is not a number"),
        ("forces_max", "expected NAME OP NUMBER"),
        ("forces_max=5", "expected NAME OP NUMBER"),
        ("elements in Al,Oo", "no element 'Oo'"),
        ("__import__('os')<1", "expected NAME OP NUMBER"),
    ],
)
def test_what_is_no_filter_is_explained(text, says):
    with pytest.raises(ConfigError, match=says):
        parse([text])
