"""Import of eSEN from fairchem, v1 and v2, for `matscale import fairchem`.

A file holds an `esen_backbone` (v1) or an `eSCNMDBackbone` (v2; experts must be merged). Its heads are one for energy,
forces and stress as gradients, or several, for the energy, for direct forces and possibly for the stress.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from torch import nn

from matscale.plugin import ConfigError, FairchemCheckpoint, Importer, Role
from matscale.plugins.esen.config import ESENConfig
from matscale.plugins.esen.fairchem.names import (
    config_from_fairchem,
    data_sets,
    derived,
    fairchem_name,
    load_fairchem,
    with_system,
)

_V2 = "fairchem.core.models.uma"
_MODELS = (
    "esen_backbone",
    *("escnmd_backbone", f"{_V2}.escn_md.eSCNMDBackbone"),
    *("escnmd_moe_backbone", f"{_V2}.escn_moe.eSCNMDMoeBackbone"),
)
_HEADS = {
    **dict.fromkeys(("esen_mlp_efs_head", "esen_efs_head", "MLP_EFS_Head"), "efs"),
    **dict.fromkeys(("esen_mlp_energy_head", "MLP_Energy_Head"), "energy"),
    **dict.fromkeys(("esen_linear_force_head", "Linear_Force_Head"), "forces"),
    **dict.fromkeys(("esen_mlp_stress_head", "MLP_Stress_Head"), "stress"),
}
"""Name in matscale of each head module of fairchem, without its path."""
_WRAPPER = "DatasetSpecificSingleHeadWrapper"


def normal(checkpoint: FairchemCheckpoint) -> FairchemCheckpoint:
    """Rename heads, and merge the embeddings of charge, spin and data set to a vector.

    Raises ConfigError for an unexpected head.
    """
    named, wrapped = _heads(checkpoint)
    spin = _spin(checkpoint)

    def changed(weights: Mapping[str, Any]) -> dict[str, Any]:
        found = {_with_head(name, named, wrapped): weight for name, weight in weights.items()}
        return with_system(found, charge=0, spin=spin)

    states = {
        key: changed(weights)
        for key, weights in (("state_dict", checkpoint.weights), ("averaged_state_dict", checkpoint.averaged))
        if weights
    }
    return checkpoint.changed(**states)


def _heads(checkpoint: FairchemCheckpoint) -> tuple[dict[str, str], set[str]]:
    """Name in matscale of each head of a file, and the heads that are inside a wrapper for one data set."""
    named: dict[str, str] = {}
    wrapped = set[str]()
    for head in checkpoint.model.heads or {}:
        options = dict(checkpoint.section("config", "model", "heads", head))
        module = _last(options.pop("module", None))
        if module == _WRAPPER:
            wrapped.add(head)
            module = _last(options.pop("head_cls", None))
            for key in ("dataset_names", "dataset_mapping", "head_kwargs", "wrap_property"):
                options.pop(key, None)
        if module not in _HEADS:
            known = ", ".join(name for name in _HEADS if name[0].isupper())
            raise ConfigError(f"{checkpoint.path}: its head {head!r} is {module!r}: only {known} are imported.")
        if options.pop("reduce", "sum") != "sum":
            raise ConfigError(f"{checkpoint.path}: reduce of the head {head!r}: only 'sum' over atoms is imported.")
        if unknown := sorted(set(options) - {"prefix", "wrap_property"}):
            raise ConfigError(
                f"{checkpoint.path}: unknown option {unknown[0]!r} of the head {head!r}: such heads cannot be imported."
            )
        named[head] = _HEADS[module]
    found, direct = sorted(named.values()), checkpoint.model.options.get("direct_forces", True)
    allowed = [["energy", "forces"], ["energy", "forces", "stress"]] if direct else [["efs"]]
    if found not in allowed:
        raise ConfigError(
            f"{checkpoint.path}: its heads are {', '.join(found) or 'none'}, but a model with direct_forces = "
            f"{direct!r} has {' and '.join(allowed[0])}. A model with heads for several data sets cannot be imported."
        )
    return {head: "energy" if name == "efs" else name for head, name in named.items()}, wrapped


def _last(module: Any) -> str:
    """Name of a class without its path."""
    return str(module).rpartition(".")[2]


def _with_head(name: str, named: Mapping[str, str], wrapped: set[str]) -> str:
    place, _, rest = name.partition(".")
    head, _, rest = rest.partition(".")
    if place != "output_heads" or head not in named:
        return name
    return f"{place}.{named[head]}.{rest.removeprefix('head.') if head in wrapped else rest}"


def _spin(checkpoint: FairchemCheckpoint) -> int:
    """Spin for which a model is imported: 1 for molecules, for which it is fairchem's multiplicity, else 0."""
    return 1 if data_sets(checkpoint.model.options) == ["omol"] else 0


def configuration(checkpoint: FairchemCheckpoint) -> ESENConfig:
    """Configuration of the model in a checkpoint. Raises ConfigError that names the first unsupported option."""
    version: Literal["v1", "v2"] = "v1" if checkpoint.model.name == "esen_backbone" else "v2"
    has_stress = any(name.startswith("output_heads.stress.") for name in checkpoint.weights)
    return config_from_fairchem(
        checkpoint.model.options,
        version,
        system_vector="backbone.system" in checkpoint.weights,
        stress_head="equivariant" if has_stress else "none",
    )


def roles(model: nn.Module, names: Iterable[str]) -> dict[str, Role]:
    """Role of each weight in `names`: parameters are trained; tables that follow from the options are derived."""
    own = {fairchem_name(name) for name, _ in model.named_parameters()}
    found: dict[str, Role] = {name: "derived" for name in names if derived(name)}
    return found | {name: "trained" for name in names if name in own}


def notes(checkpoint: FairchemCheckpoint) -> list[str]:
    """Notes on the differences between a run and the model of a checkpoint."""
    found, options = [], checkpoint.model.options
    if "backbone.system" in checkpoint.weights:
        found.append(f"The run is the model for charge 0 and spin {_spin(checkpoint)} only.")
    if not options.get("direct_forces", True) and (limit := options.get("max_neighbors")):
        found.append(f"All neighbours within the cutoff count, although the file has max_neighbors = {limit}.")
    return found


IMPORTER = Importer(
    name="esen",
    models=_MODELS,
    normal=normal,
    config=configuration,
    roles=roles,
    load=load_fairchem,
    notes=notes,
)
