"""Published sizes by name, and the size ladder through one of them, from 3 thousand to 300 million parameters."""

from __future__ import annotations

from typing import NamedTuple

from matscale.plugin import sphere
from matscale.plugins.esen.config import ESENConfig
from matscale.plugins.esen.counts import COUNTS


class Rung(NamedTuple):
    """Shape of a model: the fields of the configuration that grow along the size ladder."""

    hidden: int
    edge_channels: int
    channels: int
    n_layers: int

    def config(self, **options: object) -> ESENConfig:
        """Make the configuration of the shape, with lmax 3, mmax 2 and the given `options`."""
        return ESENConfig.model_validate({**self._asdict(), **options})


_30M = Rung(128, 128, 128, 10)
_ANCHORS = (Rung(2, 2, 2, 1), Rung(5, 5, 5, 4), Rung(32, 32, 32, 4), _30M, Rung(1024, 1024, 1024, 10))
"""Shapes between which the ladder grows evenly.

The smallest has two channels: with one channel, all scalars would be zero after the norm has subtracted their mean.
"""

SIZES = {
    "30M-OAM": _30M.config(),
    "30M-MP": _30M.config(n_radial=10),
    "K4L2": _30M.config(n_layers=4, lmax=2),
    "K10L4": _30M.config(lmax=4, n_radial=128, forces="direct", stress_head="none"),
    "K16L6": Rung(256, 256, 256, 16).config(lmax=6, n_radial=256),
}
"""eSEN-30M-OAM and -MP, 30,161,153 and 30,085,121 parameters, and the shapes of the models of OMol25 and UMA: small,
medium (direct forces) and large. The latter are published with embeddings of charge, spin and data set; here they have
none: 6,261,249, 50,599,682 and 690,201,601 parameters.
"""

DIAL = (
    "all widths and the layers grow together, with lmax 3; eSEN-30M-OAM is one of the sizes. Fine steps change the "
    "hidden and edge channels, in small models the Gaussians"
)


LADDER = sphere.SizeLadder(_ANCHORS, COUNTS.total, width="hidden")


def ladder(n_params: int) -> ESENConfig:
    """Choose the configuration of the ladder whose number of parameters is closest to `n_params`."""
    found: ESENConfig = LADDER.closest(n_params)
    return found
