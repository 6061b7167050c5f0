"""Published sizes by name, and the size ladder through one of them, from 3 thousand to 300 million parameters."""

from __future__ import annotations

from typing import NamedTuple

from matscale.plugin import sphere
from matscale.plugins.eqv3.config import EqV3Config
from matscale.plugins.eqv3.counts import COUNTS


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
    "all widths, the layers and the heads grow together; the published model with lmax 4 is one of the sizes. Fine "
    "steps change the feed-forward width and the edge channels, in small models the Gaussians"
)


LADDER = sphere.SizeLadder(_ANCHORS, COUNTS.total, width="ffn_hidden")


def ladder(n_params: int) -> EqV3Config:
    """Choose the configuration of the ladder whose number of parameters is closest to `n_params`."""
    found: EqV3Config = LADDER.closest(n_params)
    return found
