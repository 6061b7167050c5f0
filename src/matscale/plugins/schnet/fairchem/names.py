"""Names of parameters and options of `schnet` in fairchem v1, which is PyG's SchNet.

| schnet | fairchem v1 |
|---|---|
| `embedding` | `embedding` |
| `interactions.i.filter` | `interactions.i.mlp`, and once more as `interactions.i.conv.nn` |
| `interactions.i.source`, `.target.0`, `.target.2` | `interactions.i.conv.lin1`, `.conv.lin2`, `.lin` |
| `readout.0`, `readout.2` | `lin1`, `lin2` |

Centres of the Gaussians (`distance_expansion.offset`) follow from the options.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from matscale.plugin import ConfigError, FairchemCheckpoint, Importer, Role, copy_named, renamed_options, rewrite_name
from matscale.plugins.schnet.model import SchNetConfig

_RULES = [
    (r"^readout\.0\.", "lin1."),
    (r"^readout\.2\.", "lin2."),
    (r"\.filter\.", ".mlp."),
    (r"\.source\.", ".conv.lin1."),
    (r"\.target\.0\.", ".conv.lin2."),
    (r"\.target\.2\.", ".lin."),
]
_DERIVED = re.compile(r"distance_expansion\.offset$|interactions\.\d+\.conv\.nn\.\d\.(weight|bias)$")


def fairchem_name(name: str) -> str:
    """Name of a parameter in fairchem's published models."""
    return rewrite_name(name, _RULES)


def load_fairchem(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy published weights into a model of the same options; skip duplicates.

    Raises DataError that names missing weights or wrong shapes.
    """
    copy_named(model, weights, fairchem_name)


def roles(model: nn.Module, names: Iterable[str]) -> dict[str, Role]:
    """Role of each weight: parameters are trained; copies under a second name and centres of Gaussians are derived."""
    parameters = {fairchem_name(name) for name, _ in model.named_parameters()}
    found: dict[str, Role] = {name: "trained" for name in names if name in parameters}
    return found | {name: "derived" for name in names if _DERIVED.fullmatch(name)}


_OPTIONS = {
    "hidden_channels": "hidden",
    "num_filters": "filters",
    "num_interactions": "n_layers",
    "num_gaussians": "n_radial",
    "cutoff": "cutoff",
}
_DEFAULTS = {"hidden_channels": 128, "num_filters": 128, "num_interactions": 6, "num_gaussians": 50, "cutoff": 10.0}
_ONLY: dict[str, tuple[Any, ...]] = {"readout": ("sum",), "use_pbc": (True,), "regress_forces": (True,)}
_WITHOUT_EFFECT = {"use_pbc_single", "otf_graph"}


def config_from_fairchem(options: Mapping[str, Any]) -> SchNetConfig:
    """Configuration from the options of a `schnet`. Raises ConfigError for an option without a counterpart."""
    given = {**_DEFAULTS, **options}
    values = renamed_options("schnet", given, _OPTIONS, only=_ONLY, without_effect=_WITHOUT_EFFECT)
    # These are no options there: 50 nearest neighbours, and rows for 99 elements.
    return SchNetConfig.parse({**values, "max_neighbors": 50, "max_atomic_number": 99}, "model")


def _configuration(checkpoint: FairchemCheckpoint) -> SchNetConfig:
    if checkpoint.model.heads is not None:
        raise ConfigError(
            "its schnet is the backbone of a hydra model, a form that fairchem v1 does not have: only a plain schnet "
            "is imported."
        )
    return config_from_fairchem(checkpoint.model.options)


IMPORTER = Importer(name="schnet", models=("schnet",), config=_configuration, roles=roles, load=load_fairchem)
