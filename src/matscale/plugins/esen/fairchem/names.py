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
| `system` | the output of `backbone.mix_csd` for a charge, a spin and a data set |
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from matscale.plugin import ConfigError, DataError, copy_named, renamed_options, rewrite_name
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
_DERIVED = re.compile(r"(^backbone\.Jd_\d+|\.(expand_index|balance_degree_weight|distance_expansion\.offset))$")
"""Tables that follow from the options."""


def fairchem_name(name: str) -> str:
    """Name of a parameter in fairchem's models."""
    return rewrite_name(name, _RULES)


def derived(published: str) -> bool:
    """Whether the name `published` belongs to a table that follows from the options."""
    return _DERIVED.search(published) is not None


def with_system(weights: Mapping[str, Tensor], charge: int = 0, spin: int = 0) -> dict[str, Tensor]:
    """Replace the weights for charge, spin and data set by the vector that they give: `backbone.system`.

    Models of v1 have no such weights, and stay as they are. The embedding of a whole number q has one of two forms: a
    row of a table (whose first row is for q = −100 if q is a charge), or (sin 2πqW, cos 2πqW) with a fixed vector W. In
    the second form, spin 0 gives zeros. Raises DataError for weights that do not fit together.
    """
    if "backbone.mix_csd.weight" not in weights:
        return dict(weights)
    try:
        vector = _system(weights, charge, spin)
    except (KeyError, IndexError, RuntimeError) as error:
        raise DataError(
            f"the embeddings of charge, spin and data set do not fit together ({error}): mix_csd takes one vector of "
            "each."
        ) from None
    kept = {name: weight for name, weight in weights.items() if not _OF_SYSTEM.match(name)}
    return {**kept, "backbone.system": vector}


def _system(weights: Mapping[str, Tensor], charge: int, spin: int) -> Tensor:
    def embedded(name: str, number: int, first: int) -> Tensor:
        table = weights.get(f"backbone.{name}.rand_emb.weight")
        if table is not None:
            return table[number - first]
        angles = 2 * math.pi * number * weights[f"backbone.{name}.W"]
        zero = 0.0 if name == "spin_embedding" and number == 0 else 1.0
        return zero * torch.cat([angles.sin(), angles.cos()])

    parts = [embedded("charge_embedding", charge, -100), embedded("spin_embedding", spin, 0)]
    parts += [weight[0] for name, weight in weights.items() if name.startswith("backbone.dataset_embedding.")][:1]
    mixed = weights["backbone.mix_csd.weight"] @ torch.cat(parts) + weights["backbone.mix_csd.bias"]
    return nn.functional.silu(mixed)


def load_fairchem(model: nn.Module, weights: Mapping[str, Tensor], charge: int = 0, spin: int = 0) -> None:
    """Copy published weights into a model of the same options; tables that follow from the options are skipped.

    If there are embeddings of charge and spin, the model gets those of this `charge` and `spin`. Raises DataError that
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
    "regress_forces": (True,),
    "chg_spin_emb_type": ("pos_emb", "rand_emb"),
    "charge_balanced_channels": (None, []),
    "spin_balanced_channels": (None, []),
}
"""Values of options with which a model is imported; others are refused."""
_WITHOUT_EFFECT = {
    *("model", "otf_graph", "always_use_pbc", "use_pbc", "use_pbc_single", "radius_pbc_version", "num_sphere_samples"),
    *(
        "activation_checkpointing",
        "edge_chunk_size",
        "execution_mode",
        "use_cuda_graph_wigner",
        "use_quaternion_wigner",
    ),
    *("direct_forces", "direct_stress", "regress_stress", "regress_hessian", "hessian_vmap", "max_num_elements"),
    *("cs_emb_grad", "dataset_emb_grad", "use_dataset_embedding", "dataset_list", "dataset_mapping", "max_neighbors"),
}
"""Options that do not change the network, or are read separately."""
_OF_EXPERTS = {
    *("num_experts", "moe_dropout", "use_global_embedding", "use_composition_embedding", "composition_dropout"),
    *("moe_expert_coefficient_norm", "act", "layers_moe", "moe_layer_type", "moe_single", "moe_type", "model_version"),
}
"""Options of a backbone that has experts; without effect for other backbones."""
_DEFAULTS: dict[str, dict[str, Any]] = {
    "v1": {"act_type": "s2", "mlp_type": "grid", "use_envelope": False},
    "v2": {"act_type": "gate", "ff_type": "grid"},
}
"""Defaults of fairchem for missing options, in which v1 and v2 differ."""
_COMMON = {
    "sphere_channels": 128,
    "hidden_channels": 128,
    "edge_channels": 128,
    "num_layers": 2,
    "lmax": 2,
    "mmax": 2,
    "num_distance_basis": 512,
    "cutoff": 5.0,
    "norm_type": "rms_norm_sh",
    "max_num_elements": 100,
    "direct_forces": True,
    "max_neighbors": 300,
}
"""Defaults of v1 and v2 alike."""


def data_sets(backbone: Mapping[str, Any]) -> list[str]:
    """Names of the data sets that have an embedding in a backbone."""
    given = backbone.get("dataset_mapping") or backbone.get("dataset_list") or []
    if not isinstance(given, dict | list) or backbone.get("use_dataset_embedding") is False:
        return []
    return sorted({str(name) for name in (given.values() if isinstance(given, dict) else given)})


def config_from_fairchem(
    backbone: Mapping[str, Any], version: Literal["v1", "v2"] = "v2", **options: Any
) -> ESENConfig:
    """Configuration from the options of a backbone and further `options` of `ESENConfig`.

    Raises ConfigError for an option without a counterpart.
    """
    given = {**_COMMON, **_DEFAULTS[version], **backbone}
    if given.get("num_experts"):
        raise ConfigError(
            f"num_experts = {given['num_experts']!r}: the experts of this model are not merged, and matscale has no "
            "experts. Merge them for one composition, charge, spin and data set in fairchem, and import the result."
        )
    if len(sets := data_sets(given)) > 1:
        raise ConfigError(f"data sets {', '.join(sets)}: a model with embeddings of several data sets is not imported.")
    values = renamed_options("esen", given, _OPTIONS, only=_ONLY, without_effect=_WITHOUT_EFFECT | _OF_EXPERTS)
    if values.get("activation") != "s2" and values.get("feed_forward") != "grid":
        values.pop("grid_resolution", None)
    rows, limit = given["max_num_elements"], given["max_neighbors"]
    for name, number in (("max_num_elements", rows), ("max_neighbors", limit)):
        if isinstance(number, bool) or not isinstance(number, int):
            raise ConfigError(f"{name} = {number!r}: a whole number is expected.")
    own = {"forces": "direct" if given["direct_forces"] else "gradient", "max_atomic_number": min(rows - 1, 118)}
    if given["direct_forces"]:
        own["max_neighbors"] = limit
    return ESENConfig.parse({**values, **own, **options}, "backbone")
