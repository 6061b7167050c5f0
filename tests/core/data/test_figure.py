"""The page of distributions, as far as numbers can tell; how it looks is for eyes."""

from __future__ import annotations

import os

from matscale.core.data.figure import _outline, _short
from matscale.core.data.statistics import PROPERTIES


def test_sources_are_called_by_what_tells_them_apart() -> None:
    path = os.sep.join
    names = ["all", path(["", "data", "a", "x.xyz"]), path(["", "data", "b", "x.xyz"]), "train"]
    assert _short(names) == ["all", "a", "b", "train"]
    assert _short([path(["", "d", "x.xyz"]), path(["", "d", "y.xyz"])]) == ["x.xyz", "y.xyz"]
    assert _short(["all", path(["", "d", "x.xyz"])]) == ["all", "x.xyz"]


def test_an_outline_has_the_heights_of_its_bins_and_breaks_where_there_are_none() -> None:
    prop = PROPERTIES["energy_per_atom"]
    x, y = _outline({"count": 4, "joined": 1, "bins": [[-2, 1], [-1, 2], [3, 1]]}, prop)
    assert x == [prop.width * k for k in (-2, -1, -1, 0, 0, 3, 4)]
    assert y == [0.25, 0.25, 0.5, 0.5, None, 0.25, 0.25]
