"""Published sizes by name, and the size ladder from 3 thousand to 300 million parameters."""

from __future__ import annotations

from functools import lru_cache

import torch

from matscale.plugin import DatasetInfo, closest, graded
from matscale.plugins.gemnet.config import GemNetConfig
from matscale.plugins.gemnet.model import build

_OC20 = {"stress_head": "none", "max_atomic_number": 83, "triplet_in": 64, "triplet_out": 64}
_OC = {
    **_OC20,
    "n_layers": 4,
    "atom_channels": 256,
    "edge_channels": 512,
    "quadruplet_in": 32,
    "quadruplet_out": 32,
    "pair_in": 64,
    "pair_out": 64,
    "n_before_skip": 2,
    "n_atom_before": 2,
    "n_output_after": 3,
    "n_joint_layers": 2,
    "always_project": False,
    "image_kept": "above",
    "quadruplets": True,
    "atom_edge": True,
    "edge_atom": True,
    "atom_atom": True,
    "cutoff": 12.0,
    "max_neighbors": 30,
    "max_neighbors_quadruplets": 8,
    "max_neighbors_atom_edge": 20,
    "max_neighbors_atom_atom": 1000,
}
_LARGE = {
    **_OC,
    "n_layers": 6,
    "edge_channels": 1024,
    "triplet_out": 128,
    "quadruplet_in": 64,
    "radial_embedding": 32,
    "spherical_embedding": 64,
    "n_concat": 4,
}

SIZES = {
    "oc20-dT": GemNetConfig.parse({**_OC20, "atom_channels": 512, "edge_channels": 512, "max_neighbors": 50}),
    "oc20-OC": GemNetConfig.parse(_OC),
    "oc20-OC-large": GemNetConfig.parse(_LARGE),
}
"""fairchem's OC20 models: 31,671,808, 38,864,384 and 216,408,064 parameters, and 17, 54 and 80 scale factors."""

DIAL = "as many atom as edge channels, 3 blocks; fine steps change the number of Gaussians, below 128 channels"


def at_width(width: int) -> GemNetConfig:
    """Make a GemNet-dT with `width` channels.

    The other widths are the published ones, or smaller in proportion.
    """
    return GemNetConfig(
        atom_channels=width,
        edge_channels=width,
        triplet_in=min(64, max(2, width // 4)),
        triplet_out=min(64, max(2, width // 4)),
        radial_embedding=min(16, max(2, width // 4)),
        circular_embedding=min(16, max(2, width // 4)),
        n_radial=min(128, max(8, 2 * width)),
    )


def ladder(n_params: int) -> GemNetConfig:
    """Choose the model with the closest number of parameters.

    The width is varied first. If the number then deviates by more than 2 %, the number of Gaussians is varied.
    """
    config: GemNetConfig = closest(n_params, lambda dial: at_width(graded(dial + 1)), build)
    if abs(_count(config) / n_params - 1) <= 0.02:
        return config
    if _count(config) > n_params and config.atom_channels > 2:
        config = at_width(config.atom_channels - 1)
    more = config.model_copy(update={"n_radial": config.n_radial + 1})
    extra = (n_params - _count(config)) / (_count(more) - _count(config))
    return config.model_copy(update={"n_radial": max(2, config.n_radial + round(extra))})


@lru_cache(maxsize=256)
def _count(config: GemNetConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(config, DatasetInfo.any()).parameters())
