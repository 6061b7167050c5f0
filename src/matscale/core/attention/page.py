"""HTML page of the attention of a model: one file, which contains the data and the scripts that draw them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from markupsafe import Markup

from matscale.core.attention.gather import Attention, text
from matscale.core.attention.statistics import Head
from matscale.core.report.html import asset, rendered, script_data
from matscale.core.report.layout import DASHES, SERIES
from matscale.version import __version__

REACH = 5.0
"""Cutoff [Å] at which the page starts, for a model without one."""


def page(found: Attention, facts: dict[str, Any], data: str) -> str:
    """Render attention as HTML. `facts` are told at its end, `data` is the name of the data."""
    return rendered(
        "attention",
        "attention.html.jinja",
        name=found.architecture,
        sentences=sentences(found, data),
        heads=found.heads,
        layers=sorted({head.layer for head in found.heads}),
        numbers=sorted({head.head for head in found.heads}),
        drawn=found.drawn,
        reach=found.cutoff or REACH,
        has_cutoff=found.cutoff is not None,
        facts={"made by": f"matscale {__version__}", **facts, "dataset": data, "dataset hash": found.dataset.hash},
        told=text,
        data=script_data(plain(found)),
        scripts=[Markup(script) for script in scripts()],
        style=Markup(asset("report.css", "report") + asset("view.css", "view") + asset("attention.css", "attention")),
    )


def scripts() -> tuple[str, ...]:
    """Scripts of every page: plotly, 3Dmol.js, and the page's own."""
    from plotly.offline import get_plotlyjs  # start-up: plotly

    return get_plotlyjs(), asset("3Dmol-min.js", "view"), "\n" + asset("attention.js", "attention")


def sentences(found: Attention, data: str) -> list[str]:
    """First sentences of the page: what was measured, and the heads whose weights fall most with distance."""
    known = [head for head in found.heads if np.isfinite(head.rank.value)]
    said = []
    if known:
        local = min(known, key=lambda head: head.rank.value)
        n_falling = sum(head.rank.high < 0 for head in known)
        length = f", decay length {text(local.length)} Å" if np.isfinite(local.length.value) else ""
        said.append(
            f"The weights of {n_falling} of {len(known)} heads fall with distance. The strongest is layer "
            f"{local.layer}, head {local.head}: rank correlation {text(local.rank)}{length}."
        )
    said.append(
        f"Measured on {len(found.rows):,} structures of {data}. Intervals are 95 % intervals by bootstrap over "
        "structures."
    )
    return said


def plain(found: Attention) -> dict[str, Any]:
    """Contents of the page as JSON-ready values, which its script draws."""
    s, drawn = found.drawn.structure, found.drawn
    return {
        "heads": [_head(head, SERIES[(head.layer - 1) % len(SERIES)]) for head in found.heads],
        "points": [[_rounded(row) for row in layer] for layer in found.points],
        "structure": {
            "formula": s.formula,
            "row": drawn.row,
            "symbols": [chemical_symbols[z] for z in s.atomic_numbers],
            "positions": _rounded(s.positions.reshape(-1)),
            "cell": _rounded(s.cell.reshape(-1)),
            "vectors": [[_rounded(v) for v in row] for row in drawn.vectors],
            "maps": [[[_rounded(row) for row in head] for head in layer] for layer in drawn.maps],
        },
    }


def _head(head: Head, colour: str) -> dict[str, Any]:
    return {
        "layer": head.layer,
        "head": head.head,
        "colour": colour,
        "dash": DASHES[(head.head - 1) % len(DASHES)],
        "x": _rounded(head.distance),
        "y": _rounded(one.value for one in head.curve),
        "low": _rounded(one.low for one in head.curve),
        "high": _rounded(one.high for one in head.curve),
    }


def _rounded(values: Iterable[float]) -> list[float]:
    """Values with four digits, which are enough for a figure."""
    return [float(f"{value:.4g}") for value in values]
