"""Published sizes by name, and the size ladder through them, from 3 thousand to 300 million parameters."""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import pairwise
from typing import NamedTuple

from matscale.plugin import steps_between
from matscale.plugins.eqv2.config import EqV2Config
from matscale.plugins.eqv2.counts import COUNTS


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

    def config(self, **options: object) -> EqV2Config:
        """Make the configuration of the shape, with lmax 4, mmax 2 and the given `options`."""
        return EqV2Config.model_validate({**self._asdict(), **options})


_LADDER = tuple(
    Rung(*row)
    for row in (
        (1, 1, 1, 1, 1, 1, 1, 1),
        (1, 1, 1, 2, 2, 1, 2, 1),
        (2, 2, 2, 2, 4, 1, 4, 1),
        (3, 3, 3, 2, 4, 1, 4, 1),
        (3, 3, 3, 2, 8, 1, 8, 2),
        (3, 3, 3, 3, 8, 1, 8, 2),
        (4, 4, 4, 3, 8, 1, 8, 2),
        (5, 5, 5, 4, 8, 1, 8, 2),
        (6, 10, 10, 4, 8, 1, 8, 2),
        (8, 12, 12, 4, 10, 1, 10, 2),
        (10, 12, 12, 4, 12, 1, 12, 3),
        (12, 16, 16, 4, 12, 1, 12, 3),
        (16, 16, 16, 4, 16, 1, 16, 4),
        (18, 18, 18, 4, 20, 1, 20, 5),
        (24, 24, 24, 4, 24, 2, 24, 6),
        (36, 36, 36, 5, 32, 3, 32, 8),
        (48, 48, 48, 6, 32, 4, 32, 8),
        (64, 64, 64, 6, 32, 5, 32, 8),
        (72, 72, 72, 6, 32, 6, 32, 8),
        (96, 96, 96, 6, 40, 7, 40, 10),
    )
)
"""The twenty shapes of arXiv:2509.21811."""

_OMAT24_S = Rung(128, 128, 128, 8, 64, 8, 64, 16)
_SMALLEST = Rung(1, 2, 2, 1, 1, 1, 2, 1)
_WIDEST = Rung(416, 272, 416, 10, 208, 8, 64, 52)
"""Ends of the ladder, which are not published.

Beyond the S model, models of the ladder get wider, but keep lmax 4.
"""

_OMAT24_M = _OMAT24_S._replace(n_layers=10)
_OMAT24_L = _OMAT24_S._replace(n_layers=20)

SIZES = {
    "omat24-S": _OMAT24_S.config(stress_head="rank2", mean_atoms=31.17),
    "omat24-M": _OMAT24_M.config(stress_head="rank2", mean_atoms=31.17, lmax=6, mmax=4),
    "omat24-L": _OMAT24_L.config(stress_head="rank2", mean_atoms=31.17, lmax=6, mmax=3),
    **{f"ladder-{number:02d}": shape.config(stress_head="rank2") for number, shape in enumerate(_LADDER, start=1)},
}
"""OMat24's models (arXiv:2410.12771): 31,207,434, 86,589,068 and 153,769,868 parameters; the ladder of
arXiv:2509.21811: 3,217 to 11,259,642. All with the published stress head."""

DIAL = (
    "all widths, the layers and the heads grow together, as in the published sizes with lmax 4. Fine steps change the "
    "feed-forward width; below 6,500 parameters, there are fewer Gaussians"
)


@cache
def rungs() -> tuple[Rung, ...]:
    """List the published shapes from the third on, and steps between them that change one field at a time.

    The first two published shapes have one channel. A LayerNorm over one channel is a constant: such a model has the
    same energy for all structures with the same number of atoms. Therefore the ladder starts with two channels.
    """
    anchors = (_SMALLEST, *_LADDER[2:], _OMAT24_S, _WIDEST)
    return (anchors[0], *(Rung(*shape) for a, b in pairwise(anchors) for shape in steps_between(a, b)))


@lru_cache(maxsize=4096)
def _count(shape: Rung) -> int:
    return COUNTS.total(shape.config())


def _split(rung: int) -> int:
    """Number of parameters from which the next rung of the ladder replaces `rung`.

    It is half-way between the numbers of the two rungs, or the number of the next rung with a feed-forward width of 1,
    if the latter is larger.
    """
    here, above = rungs()[rung], rungs()[rung + 1]
    return max((_count(here) + _count(above)) // 2, _count(above._replace(ffn_hidden=1)))


def ladder(n_params: int) -> EqV2Config:
    """Choose the configuration whose number of parameters is closest to `n_params`.

    The nearest rung of the ladder is chosen, and its feed-forward width adjusted. Larger `n_params` never give a
    smaller model. Below the smallest rung, the number of Gaussians is reduced; beyond the largest, feed-forward
    networks get wider.
    """
    if n_params < _count(_SMALLEST):
        return _fewer_gaussians(n_params)
    low, high = 0, len(rungs()) - 1  # the rung is among low..high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if n_params < _split(middle) else (middle + 1, high)
    shape = rungs()[low]
    smallest = _split(low - 1) if low > 0 else 0
    largest = _split(low) if low < len(rungs()) - 1 else 10**18
    return _nearest_width(shape, n_params, smallest, largest).config()


def _fewer_gaussians(n_params: int) -> EqV2Config:
    full = _SMALLEST.config()
    each = COUNTS.total(full) - COUNTS.total(_SMALLEST.config(n_radial=full.n_radial - 1))
    n_radial = full.n_radial - round((COUNTS.total(full) - n_params) / each)
    return _SMALLEST.config(n_radial=max(n_radial, 2))


def _nearest_width(shape: Rung, n_params: int, smallest: int, largest: int) -> Rung:
    """Set the feed-forward width of `shape` so that its number of parameters comes closest to `n_params`.

    The result has at least `smallest` and less than `largest` parameters.
    """
    low, high = 0, 2  # count(low) ≤ n_params < count(high)
    while _count(shape._replace(ffn_hidden=high)) <= n_params:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _count(shape._replace(ffn_hidden=middle)) <= n_params else (low, middle)
    candidates = [shape._replace(ffn_hidden=width) for width in (low, high) if width > 0]
    allowed = [c for c in candidates if smallest <= _count(c) < largest]
    return min(allowed or [shape], key=lambda c: abs(_count(c) - n_params))
