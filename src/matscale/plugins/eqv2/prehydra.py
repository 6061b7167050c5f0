"""Checkpoints from before fairchem's models had a backbone and heads, put into the form with them.

Such a file has one model, `equiformer_v2`, whose options stand beside its name or apart, in `model_attributes`; its
weights are those of a backbone and of `energy_block` and `force_block`. It predicts no stress. References per element
are a parameter of some models, in units of the energy's normalizer; fairchem adds them if `use_energy_lin_ref` is set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from matscale.core.errors import DataError

PREFIXES = ("module.module.", "module.", "")
"""Of the names of weights, by fairchem's parallel training."""
_HEADS = {"energy_block.": "output_heads.energy.energy_block.", "force_block.": "output_heads.forces.force_block."}
_REFERENCES = "energy_lin_ref"


def without_prefix(named: dict[str, Any]) -> dict[str, Any]:
    """The weights without the `module.` (0 to 2 times) that all of them have."""
    prefix = next(p for p in PREFIXES if all(name.startswith(p) for name in named))
    return {name.removeprefix(prefix): value for name, value in named.items()}


def as_hydra(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The content of a file; that of a file from before hydra in the form of a later one.

    Raises DataError for element references that it has twice.
    """
    config, named = values.get("config"), values.get("state_dict")
    if not isinstance(config, dict) or not isinstance(named, dict) or not named:
        return values
    name, options = _model(config)
    if name != "equiformer_v2":
        return values
    uses_references = bool(options.pop("use_energy_lin_ref", False))
    options.pop("load_energy_lin_ref", None)
    weights = without_prefix(named)
    references = weights.pop(_REFERENCES, None)
    heads = {"energy": {"module": "equiformer_v2_energy_head"}}
    if options.get("regress_forces", True):
        heads["forces"] = {"module": "equiformer_v2_force_head"}
    backbone = {**options, "model": "equiformer_v2_backbone"}
    changed = {
        **values,
        "config": {**config, "model": {"name": "hydra", "backbone": backbone, "heads": heads}},
        "state_dict": {_renamed(name): value for name, value in weights.items()},
    }
    if uses_references and isinstance(references, Tensor):
        if values.get("elementrefs"):
            raise DataError(f"{path}: has element references twice, as elementrefs and as {_REFERENCES}.")
        changed["elementrefs"] = {"energy": {"element_references": references.double() * _energy_scale(values)}}
    return changed


def _model(config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Name and options."""
    model = config.get("model")
    if isinstance(model, dict):
        return model.get("name"), {key: value for key, value in model.items() if key != "name"}
    attributes = config.get("model_attributes")
    return model, dict(attributes) if isinstance(attributes, dict) else {}


def _renamed(name: str) -> str:
    for theirs, later in _HEADS.items():
        if name.startswith(theirs):
            return later + name.removeprefix(theirs)
    return f"backbone.{name}"


def _energy_scale(values: dict[str, Any]) -> float:
    """Of the energy's normalizer; 1 where it cannot be read, which `fairchem.normalisers` then refuses."""
    normalizers = values.get("normalizers")
    found = normalizers.get("target", normalizers.get("energy")) if isinstance(normalizers, dict) else None
    scale = found.get("std", found.get("rmsd")) if isinstance(found, dict) else None
    return float(scale) if isinstance(scale, Tensor) and scale.numel() == 1 else 1.0
