"""Import of EquiformerV2 from fairchem v1, for `matscale import fairchem`.

A file holds either a hydra model, that is an `equiformer_v2_backbone` with heads for energy, forces and possibly
stress, or an older `equiformer_v2` (`prehydra`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from matscale.plugin import ConfigError, DatasetInfo, FairchemCheckpoint, Importer, Role
from matscale.plugins.eqv2.config import EqV2Config
from matscale.plugins.eqv2.fairchem.export import content
from matscale.plugins.eqv2.fairchem.names import config_from_fairchem, derived, fairchem_name, load_fairchem
from matscale.plugins.eqv2.fairchem.prehydra import as_hydra
from matscale.plugins.eqv2.heads import Rank2StressHead
from matscale.plugins.eqv2.model import EqV2

_HEADS: dict[str, tuple[set[str], dict[str, Any]]] = {
    "energy": ({"equiformer_v2_energy_head", "equiformerV2_scalar_head"}, {"output_name": "energy", "reduce": "sum"}),
    "forces": ({"equiformer_v2_force_head", "equiformerV2_vector_head"}, {"output_name": "forces"}),
    "stress": (
        {"rank2_symmetric_head"},
        {
            "output_name": "stress",
            "decompose": True,
            "use_source_target_embedding": True,
            "edge_level_mlp": False,
            "num_mlp_layers": 2,
            "extensive": False,
        },
    ),
}
"""Names of the modules of each head that are imported, and the supported value of each of their options."""
_REQUIRED = {"stress": ("decompose", "use_source_target_embedding")}
"""Options of a head that must be set, since their default in fairchem (False) is not the supported value."""


def configuration(checkpoint: FairchemCheckpoint) -> EqV2Config:
    """Configuration of the model in a checkpoint. Raises ConfigError that names the first unsupported option."""
    path, backbone, heads = checkpoint.path, checkpoint.model.options, checkpoint.model.heads or {}
    for head, (modules, options) in _HEADS.items():
        if head in heads or head != "stress":
            chosen = dict(checkpoint.section("config", "model", "heads", head))
            _check_head(path, head, chosen, modules, options)
    if extra := sorted(set(heads) - set(_HEADS)):
        raise ConfigError(
            f"{path}: head {extra[0]!r} has no counterpart in matscale, which has heads for energy, forces and stress."
        )
    return config_from_fairchem(backbone, stress_head="rank2" if "stress" in heads else "none")


def _check_head(path: Path, name: str, head: dict[str, Any], modules: set[str], options: dict[str, Any]) -> None:
    module = head.pop("module", None)
    if not isinstance(module, str) or module not in modules:
        raise ConfigError(
            f"{path}: its head for {name} is {module!r}: only {' or '.join(sorted(modules))} is imported."
        )
    if name == "stress":
        head.pop("default_norm_type", None)  # of backbones without a norm of their own
        head.pop("avg_num_nodes", None)  # affects only extensive heads
    for key in _REQUIRED.get(name, ()):
        head.setdefault(key, False)
    for key, value in head.items():
        if key not in options:
            raise ConfigError(
                f"{path}: unknown option {key} = {value!r} of the head for {name}: such a head cannot be imported."
            )
        if isinstance(value, Tensor) or value != options[key]:
            raise ConfigError(f"{path}: {key} = {value!r} of the head for {name}: only {options[key]!r} is imported.")


def roles(model: nn.Module, names: Iterable[str]) -> dict[str, Role]:
    """Role of each weight in `names`: parameters are trained; index tables, grids and the like are derived."""
    parameters = {fairchem_name(name) for name, _ in model.named_parameters()}
    found: dict[str, Role] = {}
    for name in names:
        if name in parameters:
            found[name] = "trained"
        elif derived(name):
            found[name] = "derived"
    return found


def _stress_parts(model: EqV2, parts: Tensor) -> None:
    if model.config.stress_head == "rank2":
        cast(Rank2StressHead, model.stress).normalisers.copy_(parts)


def _info(config: EqV2Config, elements: tuple[int, ...]) -> DatasetInfo:
    return DatasetInfo(elements, config.mean_atoms, config.mean_degree)


IMPORTER = Importer(
    name="eqv2",
    models=("equiformer_v2_backbone", "equiformer_v2"),
    normal=as_hydra,
    config=configuration,
    roles=roles,
    load=load_fairchem,
    info=_info,
    stress_parts=_stress_parts,
    export=content,
)
