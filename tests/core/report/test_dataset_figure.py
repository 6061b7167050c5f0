"""The page of distributions, as far as numbers can tell; how it looks is for eyes."""

from __future__ import annotations

import os
import re

from matscale.core.data.store.statistics import PROPERTIES
from matscale.core.report.dataset_figure import _outline, _short, figure


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


def test_the_page_needs_no_network_sends_nothing_and_is_the_same_each_time() -> None:
    from plotly.offline import get_plotlyjs

    counts = {"count": 4, "joined": 1, "bins": [[-2, 1], [-1, 2], [3, 1]]}
    nothing = {"count": 0, "joined": 1, "bins": []}
    tables = {"all": {name: counts if name == "energy_per_atom" else nothing for name in PROPERTIES}}
    page = figure("a set", tables)
    own = page.replace(get_plotlyjs(), "")
    assert len(own) < 20_000 < len(page)
    assert not re.findall(r"https?://|<(?:script|img|link)[^>]*(?:src|href)=", own)
    assert '"displaylogo": false' in own
    assert [word for word in re.findall(r'"modeBarButtons": (\[\[.*?\]\])', own) if "loud" not in word]
    assert figure("a set", tables) == page
