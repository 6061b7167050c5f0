"""Convert old checkpoints, without backbone and heads, to the form of hydra models.

Such a file has one model, `equiformer_v2`, with options beside its name or in `model_attributes`. Its weights are those
of a backbone, of `energy_block` and of `force_block`; it predicts no stress. Some models have element references as a
parameter, in units of the energy's normalizer; fairchem adds them if `use_energy_lin_ref` is set.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from matscale.plugin import DataError, FairchemCheckpoint

_HEADS = {"energy_block.": "output_heads.energy.energy_block.", "force_block.": "output_heads.forces.force_block."}
_REFERENCES = "energy_lin_ref"


def as_hydra(checkpoint: FairchemCheckpoint) -> FairchemCheckpoint:
    """Convert a checkpoint from before hydra models to the later form; return other checkpoints unchanged.

    Raises DataError if the checkpoint has element references twice.
    """
    if checkpoint.model.heads is not None:
        return checkpoint
    options, weights = dict(checkpoint.model.options), checkpoint.weights
    uses_references = bool(options.pop("use_energy_lin_ref", False))
    options.pop("load_energy_lin_ref", None)
    references = weights.pop(_REFERENCES, None)
    heads = {"energy": {"module": "equiformer_v2_energy_head"}}
    if options.get("regress_forces", True):
        heads["forces"] = {"module": "equiformer_v2_force_head"}
    model = {"name": "hydra", "backbone": {**options, "model": "equiformer_v2_backbone"}, "heads": heads}
    changed: dict[str, Any] = {
        "config": {**checkpoint.config, "model": model},
        "state_dict": {_renamed(name): value for name, value in weights.items()},
    }
    if uses_references and references is not None:
        if checkpoint.values.get("elementrefs"):
            raise DataError(
                f"{checkpoint.path}: has element references twice, as elementrefs and as {_REFERENCES}. It is unclear "
                "which ones are right."
            )
        row = references.double() * _energy_scale(checkpoint.values)
        changed["elementrefs"] = {"energy": {"element_references": row}}
    return checkpoint.changed(**changed)


def _renamed(name: str) -> str:
    for theirs, later in _HEADS.items():
        if name.startswith(theirs):
            return later + name.removeprefix(theirs)
    return f"backbone.{name}"


def _energy_scale(values: dict[str, Any]) -> float:
    """Scale of the energy's normalizer; 1 if it is unreadable, in which case the import refuses the file later."""
    normalizers = values.get("normalizers")
    found = normalizers.get("target", normalizers.get("energy")) if isinstance(normalizers, dict) else None
    scale = found.get("std", found.get("rmsd")) if isinstance(found, dict) else None
    return float(scale) if isinstance(scale, Tensor) and scale.numel() == 1 else 1.0
