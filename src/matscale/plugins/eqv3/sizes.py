"""Published sizes by name, and the size ladder through one of them, from 3 thousand to 300 million parameters."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from functools import cache, lru_cache
from itertools import pairwise, product
from typing import NamedTuple

from matscale.plugin import steps_between
from matscale.plugins.eqv3.config import EqV3Config
from matscale.plugins.eqv3.counts import total


class Rung(NamedTuple):
    """Shape of a model: the fields of the configuration that grow along the size ladder."""

    ffn_hidden: int
    edge_channels: int
    channels: int
    n_layers: int
    attention_hidden: int
    n_heads: int
    alpha_channels: int
    value_channels: int

    def config(self, **options: object) -> EqV3Config:
        """Make the configuration of the shape, with lmax 4, mmax 2 and the given `options`."""
        return EqV3Config.model_validate({**self._asdict(), **options})


_L4 = Rung(512, 128, 128, 7, 32, 8, 64, 16)
_ANCHORS = (
    Rung(2, 2, 2, 1, 1, 1, 2, 1),
    Rung(16, 8, 8, 2, 4, 1, 8, 4),
    Rung(64, 16, 16, 4, 8, 2, 8, 8),
    Rung(192, 48, 48, 5, 16, 4, 32, 12),
    _L4,
    Rung(2048, 512, 512, 7, 128, 8, 256, 64),
)
"""Shapes between which the ladder grows evenly.

The smallest has two channels: a LayerNorm over one is constant. Beyond the published shape, models get wider.
"""

_DIRECT = {"forces": "direct", "attention_drop": 0.1, "drop_path": 0.05, "max_atomic_number": 127}
_GRADIENT = {"max_atomic_number": 127}
_OC20 = {
    "lmax": 6,
    "n_radial": 128,
    "cutoff": 12.0,
    "max_neighbors": 20,
    "stress_head": "none",
    "mean_atoms": 77.81317,
}

SIZES = {
    "oc20-2M": _L4._replace(n_layers=8, attention_hidden=64).config(**_DIRECT, **_OC20),
    "mptrj-direct": _L4.config(**_DIRECT, n_radial=10, denoising=True),
    "mptrj-gradient": _L4.config(**_GRADIENT, n_radial=10),
    "omat24-direct": _L4.config(**_DIRECT, denoising=True),
    "omat24-direct-L6": _L4.config(**_DIRECT, denoising=True, lmax=6),
    "omat24-gradient": _L4.config(**_GRADIENT),
    "omat24-gradient-L6": _L4.config(**_GRADIENT, lmax=6),
    "salex-gradient": _L4.config(**_GRADIENT, attention_epsilon=1e-8),
}
"""Eight published configurations: 91,390,274, 34,859,044, 30,278,113, 34,928,164, 57,077,924, 30,333,409, 48,841,313
and 30,333,409 parameters. Models of materials are published with a limit of 300 neighbours, which atoms rarely reach
within 6 Å; here they have no limit."""

DIAL = (
    "all widths, layers and heads together, through the published shape at lmax 4; feed-forward width and edge "
    "channels as fine dials, Gaussians in small models"
)


@cache
def rungs() -> tuple[Rung, ...]:
    """List the shapes of the ladder, which change one field at a time."""
    return (_ANCHORS[0], *(Rung(*shape) for a, b in pairwise(_ANCHORS) for shape in steps_between(a, b)))


@lru_cache(maxsize=4096)
def _count(shape: Rung) -> int:
    return total(shape.config())


def ladder(n_params: int) -> EqV3Config:
    """Choose the configuration of the rung whose number of parameters is closest to `n_params`.

    If it is off by more than 2 %, the feed-forward width and edge channels are adjusted; if they change too much, the
    number of Gaussians.
    """
    above = bisect_left(rungs(), n_params, key=_count)
    shape = _nearest(rungs()[max(above - 1, 0) : above + 1], n_params)
    if not _is_near(shape, n_params):
        hidden, edge = (
            range(1, 2 * shape.ffn_hidden + 1),
            range(max(shape.edge_channels - 1, 2), shape.edge_channels + 2),
        )
        near = (shape._replace(ffn_hidden=h, edge_channels=e) for h, e in product(hidden, edge))
        shape = _nearest(near, n_params)
    config = shape.config()
    if _is_near(shape, n_params):
        return config
    each = _count(shape) - total(shape.config(n_radial=config.n_radial - 1))
    n_radial = config.n_radial + round((n_params - _count(shape)) / each)
    return shape.config(n_radial=max(n_radial, 2))


def _nearest(shapes: Iterable[Rung], n_params: int) -> Rung:
    return min(shapes, key=lambda shape: abs(_count(shape) - n_params))


def _is_near(shape: Rung, n_params: int) -> bool:
    return abs(_count(shape) / n_params - 1) <= 0.02
