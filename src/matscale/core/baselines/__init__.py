"""Trivial baselines that a model has to beat: four predictors with the same interface as models.

| name | energy | forces | stress |
|---|---|---|---|
| `zero` | 0 | 0 | 0 |
| `mean` | mean energy per atom × number of atoms | mean force vector | mean tensor |
| `composition` | sum of element references (least squares) | 0 | mean tensor |
| `nearest` | by each atom's element and that of its nearest neighbour | the same | the same |

All are fitted on the training part only. `fit_baselines` fits them, `evaluate_baselines` measures them like models, and
`plain`/`parse` convert them to and from JSON.
"""

from __future__ import annotations

from matscale.core.baselines.base import Baseline, passes
from matscale.core.baselines.nearest import NearestBaseline, nearest_elements
from matscale.core.baselines.simple import CompositionBaseline, MeanBaseline, ZeroBaseline
from matscale.core.baselines.table import (
    BASELINES,
    evaluate_baselines,
    fit_baselines,
    parse_baselines,
    plain_baselines,
)

__all__ = [
    "BASELINES",
    "Baseline",
    "CompositionBaseline",
    "MeanBaseline",
    "NearestBaseline",
    "ZeroBaseline",
    "evaluate_baselines",
    "fit_baselines",
    "nearest_elements",
    "parse_baselines",
    "passes",
    "plain_baselines",
]
