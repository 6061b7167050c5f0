"""Names of parameters and options of eSEN in fairchem, v1 (`esen_backbone`) and v2 (`eSCNMDBackbone`) alike.

| esen | fairchem |
|---|---|
| `element` | `backbone.sphere_embedding` |
| `source`, `target` | `backbone.{source,target}_embedding` |
| `edge_degree.radial.net.N` | `backbone.edge_degree_embedding.rad_func.net.N` |
| `blocks.i.edge_norm`, `.atom_norm` | `backbone.blocks.i.norm_1`, `.norm_2` |
| `blocks.i.edge_wise.radial.net.N` | `backbone.blocks.i.edge_wise.so2_conv_1.rad_func.net.N` |
| `….convK.m0`, `.m.N` | `….so2_conv_K.fc_m0`, `.so2_m_conv.N.fc` |
| `blocks.i.atom_wise.gates`, `.mlp` | `backbone.blocks.i.atom_wise.scalar_mlp`, `.grid_mlp` |
| `….expand`, `.contract` | `….so3_linear_1`, `.so3_linear_2` |
| norms: `.scalars`, `.weight`, `.bias` | `.norm_l0`, `.affine_weight`, `.affine_bias` |
| `energy.mlp` | `output_heads.energy.energy_block`; of a gradient model `output_heads.efs.energy_block` |
| `forces.linear` | `output_heads.forces.linear` |
| `stress.mlp`, `stress.linear` | `output_heads.stress.scalar_block`, `.l2_linear` |
| `system` | what `backbone.mix_csd` makes of a charge, a spin and a data set |
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from matscale.plugin import copy_named, renamed_options
from matscale.plugins.esen.config import ESENConfig

_RULES = [
    (r"^element\.", "backbone.sphere_embedding."),
    (r"^(source|target)\.", r"backbone.\1_embedding."),
    (r"^edge_degree\.radial\.net\.", "backbone.edge_degree_embedding.rad_func.net."),
    (r"^(blocks|norm)\.", r"backbone.\1."),
    (r"(_norm|backbone\.norm)\.scalars\.", r"\1.norm_l0."),
    (r"(_norm|backbone\.norm)\.(weight|bias)$", r"\1.affine_\2"),
    (r"\.edge_norm\.", ".norm_1."),
    (r"\.atom_norm\.", ".norm_2."),
    (r"\.edge_wise\.radial\.net\.", ".edge_wise.so2_conv_1.rad_func.net."),
    (r"\.conv(\d)\.m0\.", r".so2_conv_\1.fc_m0."),
    (r"\.conv(\d)\.m\.(\d+)\.", r".so2_conv_\1.so2_m_conv.\2.fc."),
    (r"\.atom_wise\.gates\.", ".atom_wise.scalar_mlp."),
    (r"\.atom_wise\.mlp\.", ".atom_wise.grid_mlp."),
    (r"\.expand\.", ".so3_linear_1."),
    (r"\.contract\.", ".so3_linear_2."),
    (r"^energy\.mlp\.", "output_heads.energy.energy_block."),
    (r"^stress\.mlp\.", "output_heads.stress.scalar_block."),
    (r"^stress\.linear\.", "output_heads.stress.l2_linear."),
    (r"^forces\.", "output_heads.forces."),
    (r"^system$", "backbone.system"),
]
_OF_SYSTEM = re.compile(r"^backbone\.(charge_embedding|spin_embedding|dataset_embedding|mix_csd)\.")


def fairchem_name(name: str) -> str:
    """Name of a parameter in fairchem's models."""
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


def with_system(weights: Mapping[str, Tensor], charge: int = 0, spin: int = 0) -> dict[str, Tensor]:
    """Replace the weights that concern charge, spin and data set by the vector that they make: `backbone.system`.

    Weights of v1 have none, and stay as they are. The embedding of a whole number q is either a row of a table, from
    −100 on for charges, or (sin 2πqW, cos 2πqW) of a fixed vector W, except that the spin 0 gives zeros.
    """
    if "backbone.mix_csd.weight" not in weights:
        return dict(weights)

    def embedded(name: str, number: int, first: int) -> Tensor:
        table = weights.get(f"backbone.{name}.rand_emb.weight")
        if table is not None:
            return table[number - first]
        angles = 2 * math.pi * number * weights[f"backbone.{name}.W"]
        zero = 0.0 if name == "spin_embedding" and number == 0 else 1.0
        return zero * torch.cat([angles.sin(), angles.cos()])

    parts = torch.cat([embedded("charge_embedding", charge, -100), embedded("spin_embedding", spin, 0)])
    vector = weights["backbone.mix_csd.weight"] @ parts + weights["backbone.mix_csd.bias"]
    kept = {name: weight for name, weight in weights.items() if not _OF_SYSTEM.match(name)}
    return {**kept, "backbone.system": nn.functional.silu(vector)}


def load_fairchem(model: nn.Module, weights: Mapping[str, Tensor], charge: int = 0, spin: int = 0) -> None:
    """Copy published weights into a model of the same options; tables that follow from the options are skipped.

    If they have embeddings of charge and spin, the model is the one of this `charge` and `spin`. Raises DataError that
    names missing weights or wrong shapes.
    """
    named = {name.replace("output_heads.efs.", "output_heads.energy."): weight for name, weight in weights.items()}
    copy_named(model, with_system(named, charge, spin), fairchem_name)


_OPTIONS = {
    "sphere_channels": "channels",
    "hidden_channels": "hidden",
    "edge_channels": "edge_channels",
    "num_layers": "n_layers",
    "lmax": "lmax",
    "mmax": "mmax",
    "num_distance_basis": "n_radial",
    "cutoff": "cutoff",
    "act_type": "activation",
    "ff_type": "feed_forward",
    "mlp_type": "feed_forward",
    "grid_resolution": "grid_resolution",
    "norm_type": "norm",
}
_ONLY: dict[str, tuple[Any, ...]] = {
    "use_envelope": (True,),
    "distance_function": ("gaussian",),
    "use_dataset_embedding": (False,),
    "regress_forces": (True,),
}
_WITHOUT_EFFECT = {
    *("otf_graph", "always_use_pbc", "use_pbc"),
    *("direct_forces", "direct_stress", "regress_stress", "max_num_elements"),
}


def config_from_fairchem(backbone: Mapping[str, Any], **options: Any) -> ESENConfig:
    """Configuration from the options of a backbone and further `options` of `ESENConfig`.

    Raises ConfigError for an option without a counterpart.
    """
    values = renamed_options("esen", backbone, _OPTIONS, only=_ONLY, without_effect=_WITHOUT_EFFECT)
    if values.get("activation") != "s2" and values.get("feed_forward") != "grid":
        values.pop("grid_resolution", None)
    forces = "direct" if backbone.get("direct_forces") else "gradient"
    highest = min(int(backbone["max_num_elements"]) - 1, 118)
    return ESENConfig.parse({**values, "forces": forces, "max_atomic_number": highest, **options}, "backbone")
