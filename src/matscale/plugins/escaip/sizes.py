"""Published sizes by name, and the size ladder."""

from __future__ import annotations

from matscale.plugin import closest, graded
from matscale.plugins.escaip.config import EScAIPConfig
from matscale.plugins.escaip.model import build

DIAL = "hidden channels (in proportion, those of elements, orders, distances), 4 layers; fine steps change Gaussians"

LADDER_GAUSSIANS = 64
"""Number of Gaussians of a distance in the ladder. With 600, most weights of a small model would act on Gaussians."""


def ladder(n_params: int) -> EScAIPConfig:
    """Choose a model with about `n_params` parameters: four layers, and a head for every 64 channels.

    In small models the number of Gaussians is adjusted.
    """
    found: EScAIPConfig = closest(
        n_params,
        lambda dial: _shape(graded(dial)),
        build,
        fine=lambda config, dial: config.model_copy(update={"n_radial": 1 + dial}),
    )
    return found


def _shape(hidden: int) -> EScAIPConfig:
    # `graded` widths of 128 and more are multiples of their power of two over 64, hence of the number of heads.
    n_heads = 1 << max(0, hidden.bit_length() - 7)
    return EScAIPConfig(
        hidden=hidden,
        n_layers=4,
        n_heads=n_heads,
        atom_channels=max(1, hidden // 4),
        order_channels=max(1, hidden // 8),
        distance_channels=hidden,
        n_radial=LADDER_GAUSSIANS,
    )


def _published(hidden: int, n_layers: int) -> EScAIPConfig:
    return EScAIPConfig(
        hidden=hidden,
        n_layers=n_layers,
        n_heads=hidden // 64,
        atom_channels=128,
        order_channels=64,
        distance_channels=512,
        stress_head="none",
        max_atomic_number=109,
    )


SIZES = {
    "H512L10": _published(512, n_layers=10),
    "H640L10": _published(640, n_layers=6),
    "H1024L8": _published(1024, n_layers=8),
}
"""fairchem's configurations with direct forces: 88,609,408, 85,148,160 and 271,605,120 parameters.

The second has six layers, in spite of its name. These models predict no stress.
"""
